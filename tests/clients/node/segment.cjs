// Make the calls of stdin with @segment/analytics-node, unmodified. See tests/clients/drive.py.
const { Analytics } = require('@segment/analytics-node')
const task = JSON.parse(require('fs').readFileSync(0, 'utf8'))
const refused = [], errors = []
const analytics = new Analytics({
  writeKey: task.key, host: task.host, maxEventsInBatch: task.batch, flushInterval: 200, maxRetries: 10,
})
analytics.on('error', (error) => errors.push(`${error.code}: ${error.reason}`))
for (const { n, type, ...call } of task.calls) {
  if (call.properties?.moment) call.properties.moment = new Date(call.properties.moment)
  analytics[type](call, (error) => { if (error) refused.push(n) })
}
analytics.closeAndFlush({ timeout: 60_000 }).then(() => console.log(JSON.stringify({ refused, errors })))
