/* /t.sw.js, imported by a site's service worker: shows what is pushed and tells that it was received, displayed, clicked or
 * dismissed. The signed token of the payload goes with each of these, so that nobody else can tell them.
 *
 *     self.tracker = { writeKey: "KEY", endpoint: "https://t.example" };
 *     importScripts("https://t.example/t.sw.js");
 *
 * The payload, JSON: title, body, icon, image, ... as showNotification takes them; url: what a click opens; token, message_id,
 * campaign_id: told back; anonymousId or userId: whose it is.
 */
import { safe, uuid, type Fields } from "../core/env";

interface Push extends NotificationOptions {
  title?: string;
  url?: string;
  token?: string;
  message_id?: string;
  campaign_id?: string;
  anonymousId?: string;
  userId?: string;
}
const worker = self as any;
const RETRY_MS = 3000;
const TRIES = 3;

async function tell(event: string, push: Push, more?: Fields): Promise<void> {
  const { writeKey, endpoint = location.origin, path = "/v1/batch" } = worker.tracker;
  const { token, message_id, campaign_id, anonymousId, userId } = push;
  const message = {
    type: "track",
    event,
    // A worker that is woken twice for one push tells it once.
    messageId: message_id ? `${message_id}.${event}` : uuid(),
    timestamp: new Date(),
    anonymousId: anonymousId || (userId ? undefined : "push-" + (message_id || uuid())),
    userId,
    properties: { token, message_id, campaign_id, ...more },
    context: { channel: "webpush", library: { name: "tracker.sw.js", version: VERSION } },
  };
  for (let n = 1; n <= TRIES; n++) {
    try {
      const body = JSON.stringify({ writeKey, sentAt: new Date(), batch: [message] });
      const { status } = await fetch(endpoint + path, { method: "POST", body, keepalive: true, credentials: "omit" });
      if (!/5..|429|408/.test(`${status}`)) return;
    } catch {
      // no network
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS * n));
  }
}

worker.addEventListener("push", (event: any) => {
  const push: Push = safe(() => event.data.json()) || {};
  const shown = worker.registration.showNotification(push.title || "", { ...push, data: push });
  event.waitUntil(
    Promise.all([tell("Push Notification Received", push), shown.then(() => tell("Web Push Displayed", push))]),
  );
});

worker.addEventListener("notificationclick", (event: any) => {
  const push: Push = event.notification.data || {};
  event.notification.close();
  const opened = push.url && safe(() => worker.clients.openWindow(push.url));
  event.waitUntil(Promise.all([opened, tell("Push Notification Tapped", push, { action: event.action || undefined })]));
});

worker.addEventListener("notificationclose", (event: any) =>
  event.waitUntil(tell("Web Push Dismissed", event.notification.data || {})),
);

worker.addEventListener("pushsubscriptionchange", (event: any) => {
  if (!event.newSubscription) event.waitUntil(tell("Push Notification Bounced", {}, { reason: "subscription_gone" }));
});
