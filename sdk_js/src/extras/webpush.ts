/* subscribeToPush({publicKey, worker}): asks for permission and tells Web Push Prompted, then Granted or Denied. To be called
 * when the visitor has asked for it: browsers refuse it on arrival. The subscription is for the site's server, which sends. */
import { track } from "../core/tracker";

/** `worker`: the site's own service worker, which imports /t.sw.js. undefined: the visitor said no. */
export async function subscribeToPush({ publicKey, worker = "/sw.js" }: { publicKey: string; worker?: string }): Promise<PushSubscription | undefined> {
  const registration = await navigator.serviceWorker.register(worker);
  if (Notification.permission === "default") track("Web Push Prompted");
  const granted = (await Notification.requestPermission()) === "granted";
  track(granted ? "Web Push Granted" : "Web Push Denied");
  return granted ? registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: publicKey }) : undefined;
}
