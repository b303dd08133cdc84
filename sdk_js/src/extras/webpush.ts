/* subscribeToPush({publicKey, worker}): asks for permission and tells Web Push Prompted, then Granted or Denied. To be called
 * when the visitor has asked for it: browsers refuse it on arrival. The subscription is for the site's server, which sends. */
import { warn } from "../core/env";
import { track } from "../core/tracker";

/** `worker`: the site's own service worker, which imports /t.sw.js. undefined: the visitor said no, or the browser cannot. */
export async function subscribeToPush({ publicKey, worker = "/sw.js" }: { publicKey: string; worker?: string }): Promise<PushSubscription | undefined> {
  try {
    if (Notification.permission === "default") track("Web Push Prompted");
    // Safari asks only directly after a click: nothing may be awaited before.
    const granted = (await Notification.requestPermission()) === "granted";
    track(granted ? "Web Push Granted" : "Web Push Denied");
    if (!granted) return undefined;
    const registration = await navigator.serviceWorker.register(worker);
    await active(registration);
    return await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: publicKey });
  } catch (e) {
    warn("web push", e);
    return undefined;
  }
}

/** A worker that has just been installed cannot be subscribed to yet. */
async function active({ active, waiting, installing }: ServiceWorkerRegistration): Promise<void> {
  const coming = installing || waiting;
  if (active || !coming) return;
  await new Promise<void>((resolve) =>
    coming.addEventListener("statechange", () => {
      if (/activated|redundant/.test(coming.state)) resolve();
    }),
  );
}
