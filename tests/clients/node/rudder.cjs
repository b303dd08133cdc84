// Make the calls of stdin with @rudderstack/rudder-sdk-node, unmodified. See tests/clients/drive.py.
const Analytics = require('@rudderstack/rudder-sdk-node')
const task = JSON.parse(require('fs').readFileSync(0, 'utf8'))
const refused = [], errors = []
const analytics = new Analytics(task.key, {
  dataPlaneUrl: task.host, flushAt: task.batch, flushInterval: 200, gzip: task.gzip, retryCount: 10, logLevel: 'none',
  errorHandler: (error) => errors.push(String(error)),
})
let open = 0
for (const { n, type, ...call } of task.calls) {
  if (call.properties?.moment) call.properties.moment = new Date(call.properties.moment)
  try {
    open += 1
    analytics[type](call, () => { open -= 1 })
  } catch (error) { // larger than the client sends
    open -= 1
    refused.push(n)
  }
}
const poll = setInterval(async () => {
  if (open) return
  clearInterval(poll)
  await analytics.flush()
  console.log(JSON.stringify({ refused, errors }))
}, 20)
