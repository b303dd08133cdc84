/* What a page pastes behind `<script id="trk" async src="https://HOST/t.js" data-write-key="KEY" data-to="...">`: it queues
 * the calls made before t.js has loaded, each with its time. Where t.js does not come (blocked, too late, the page is left)
 * the queue leaves by beacon to `data-to`, a batch URL with the write key, and the endpoint makes events of the calls; but
 * not where consent is required, or the person (cookie trk_consent=false) or the browser (GPC, DNT) says no.
 *
 * The queue is an array of [time, method, ...arguments]. `sent`: how many of them have left; t.js does not send those again.
 * Written for size: the page's globals are named plainly, and the element by its id. */
declare const trk: HTMLScriptElement;
{
  const page = document,
    queue = ((window as any).tracker = (window as any).tracker || []),
    leave: any = (calls: unknown[]) => {
      try {
        calls = queue.slice(queue.sent);
        queue.sent = queue.length;
        calls[0] &&
          !(trk.dataset.consent || (navigator as any).globalPrivacyControl | (navigator as any).doNotTrack || /sent=f/.test(page.cookie)) &&
          navigator.sendBeacon(trk.dataset.to!, JSON.stringify([page.URL, page.referrer, calls, Date.now()]));
      } catch (e) {}
    };
  "page track identify group alias reset ready consent optOut on".split(" ").map(
    (method) => (queue[method] = (...args: unknown[]) => queue.push([Date.now(), method, ...args])),
  );
  trk.onerror = leave;
  setTimeout(leave, 5e3);
  addEventListener("pagehide", leave);
}
export {};
