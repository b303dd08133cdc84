// How a page makes its calls with each client: bundled by tests/clients/test_browser_clients.py, as a site would.
import { AnalyticsBrowser } from '@segment/analytics-next'
import { RudderAnalytics } from '@rudderstack/analytics-js/bundled'
import { jitsuAnalytics } from '@jitsu/js'

function segment({ host, key, batching }) {
  const batches = { 'Segment.io': { deliveryStrategy: { strategy: 'batching', config: { size: 20, timeout: 200 } } } }
  const analytics = AnalyticsBrowser.load({ writeKey: key, cdnURL: host }, batching ? { integrations: batches } : {})
  return {
    identify: (c) => analytics.identify(c.userId, c.traits),
    track: (c) => analytics.track(c.event, c.properties),
    page: (c) => analytics.page(undefined, c.name, c.properties),
    screen: (c) => analytics.screen(undefined, c.name, c.properties),
    group: (c) => analytics.group(c.groupId, c.traits),
    alias: (c) => analytics.alias(c.userId, c.previousId),
  }
}

function rudder({ host, key, batching, beacon }) {
  const analytics = new RudderAnalytics()
  analytics.load(key, host, {
    configUrl: host, logLevel: 'NONE', useBeacon: beacon, beaconQueueOptions: { maxItems: 10, flushQueueInterval: 300 },
    queueOptions: { batch: { enabled: batching, maxItems: 20, flushInterval: 300 } },
  })
  return {
    identify: (c) => analytics.identify(c.userId, c.traits),
    track: (c) => analytics.track(c.event, c.properties),
    page: (c) => analytics.page('', c.name, c.properties),
    group: (c) => analytics.group(c.groupId, c.traits),
    alias: (c) => analytics.alias(c.userId, c.previousId),
  }
}

function jitsu({ host, key }) {
  // Jitsu's client does not send again; its own option `fetch` is where that goes (docs/clients.md).
  async function patient(url, request) {
    for (let attempt = 1; ; attempt += 1) {
      const answer = await fetch(url, request).catch((error) => error)
      if (attempt === 10 || (answer.status < 500 && answer.status !== 429)) return answer
      const seconds = Number(answer.headers?.get('retry-after')) || 0.2 * 2 ** attempt
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000))
    }
  }
  const analytics = jitsuAnalytics({ host, writeKey: `${key}:any`, fetch: patient })
  return {
    identify: (c) => analytics.identify(c.userId, c.traits),
    track: (c) => analytics.track(c.event, c.properties),
    page: (c) => analytics.page({ name: c.name, ...c.properties }),
    group: (c) => analytics.group(c.groupId, c.traits),
  }
}

const CLIENTS = { segment, rudder, jitsu }

// `task`: JSON, so that half a surrogate pair comes through.
window.drive = async (client, task) => {
  const { calls, ...options } = JSON.parse(task)
  const make = CLIENTS[client](options)
  for (const call of calls) {
    if (call.properties?.moment) call.properties.moment = new Date(call.properties.moment)
    await make[call.type](call)
    // Browsers have at most 64 KB of beacons on the way; this client loses what is over that.
    if (options.beacon) await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
