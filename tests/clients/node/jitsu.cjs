// Make the calls of stdin with @jitsu/js in Node, unmodified. See tests/clients/drive.py.
const { jitsuAnalytics } = require('@jitsu/js')
const task = JSON.parse(require('fs').readFileSync(0, 'utf8'))
const refused = [], errors = []
let open = 0

// The client does not send again; its own option `fetch` is where that goes (docs/clients.md).
async function patient(url, request) {
  for (let attempt = 1; ; attempt += 1) {
    const answer = await fetch(url, request).catch((error) => error)
    if (answer.status < 500 && answer.status !== 429 && answer.status !== 408) return answer
    if (attempt === 10) { if (answer instanceof Error) throw answer; return answer }
    const seconds = Number(answer.headers?.get('retry-after')) || 0.2 * 2 ** attempt
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000))
  }
}

async function counted(url, request) {
  open += 1
  try {
    const answer = await patient(url, request)
    const body = await answer.clone().json()
    if (answer.status !== 200) refused.push(JSON.parse(request.body).properties.n)
    else if (body.success !== true || body.ok !== true) errors.push(JSON.stringify(body))
    return answer
  } finally { open -= 1 }
}

async function main() {
  const analytics = jitsuAnalytics({
    host: task.host, writeKey: `${task.key}:any`, s2s: task.s2s, fetch: counted, errorPolicy: () => {},
  })
  for (const { type, ...call } of task.calls) {
    if (call.properties?.moment) call.properties.moment = new Date(call.properties.moment)
    if (type === 'identify') await analytics.identify(call.userId, call.traits)
    if (type === 'track') await analytics.track(call.event, call.properties)
    if (type === 'page') await analytics.page({ name: call.name, ...call.properties })
    if (type === 'group') await analytics.group(call.groupId, call.traits)
  }
  while (open) await new Promise((resolve) => setTimeout(resolve, 20))
  console.log(JSON.stringify({ refused, errors }))
}
main()
