/* What a page pastes behind `<script id="trk" async src="https://HOST/t.js" data-write-key="KEY" data-to="...">`: it queues
 * the calls made before t.js has loaded, each with its time. Where t.js does not come (blocked, too late, the page is left)
 * the queue leaves by beacon to `data-to`, a batch URL with the write key, and the endpoint makes events of the calls; but
 * not where consent is required, or the person (cookie trk_consent=false) or the browser (GPC, DNT) says no.
 *
 * The queue is an array of [time, method, ...arguments] behind a proxy that has every method, also `popup.show`, which is
 * queued as [time, "popup", "show", ...]: no call throws, whether or not something comes that knows it. `then`: how many of
 * them have left; t.js does not send those again. (Of this name a number has to be there: who awaits the queue must get it.)
 * All calls of the page leave each time, with that number: the endpoint must know of a no that was said before.
 * Written for size: the page's globals are named plainly, and the element by its id. */
{
  const page = document,
    calls: any = [],
    proxy = (target: any, ...path: string[]): any =>
      new Proxy(target, {
        get: (target, key: string) =>
          key in target ? target[key] : proxy((...args: unknown[]) => calls.push([Date.now(), ...path, key, ...args]), ...path, key),
      }),
    leave = (data: any) => {
      try {
        (data = (page.scripts as any).trk.dataset).consent ||
          (navigator as any).globalPrivacyControl | (navigator as any).doNotTrack ||
          /trk_consent=f/.test(page.cookie) ||
          (calls[calls.then] &&
            data.to &&
            navigator.sendBeacon(data.to, JSON.stringify([page.URL, page.referrer, calls, Date.now(), calls.then])) &&
            (calls.then = calls.length));
      } catch (e) {}
    };
  calls.then = calls.loaded = 0;
  (self as any).tracker = (self as any).tracker || proxy(calls);
  setTimeout(leave, 5e3);
  addEventListener("pagehide", leave);
}
export {};
