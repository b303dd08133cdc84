/* What a page pastes behind `<script id="trk" async src="https://HOST/t.js" data-write-key="KEY" data-to="...">`: it queues
 * the calls made before t.js has loaded, each with its time. Where t.js does not come (blocked, too late, the page is left)
 * the queue leaves by beacon to `data-to`, a batch URL with the write key, and the endpoint makes events of the calls; but
 * not where consent is required, or the person (cookie trk_consent=false) or the browser (GPC, DNT) says no.
 *
 * The queue is an array of [time, method, ...arguments] behind a proxy that has every method, also `popup.show`, which is
 * queued as [time, "popup", "show", ...]: no call throws, whether or not something comes that knows it. `then`: how many of
 * them have left; t.js does not send those again. (Of this name a number has to be there: who awaits the queue must get it.)
 * All calls of the page leave each time, with that number: the endpoint must know of a no that was said before. A call that
 * is no JSON (an argument contains itself) leaves as null, so that the others keep their places.
 *
 * A page that nobody sees yet (prerendered, opened behind another) is not flushed by the timer: it may never be seen.
 *
 * Written for size: the page's globals are named plainly, the element by its id, and onpagehide, which almost no page has, is
 * 11 bytes less than addEventListener; where the page has one, the timer alone flushes. What its names become is in build.mjs. */
{
  let page = document,
    calls: any = [],
    proxy = (target: any, ...path: unknown[]): any =>
      new Proxy(target, {
        get: (inner, key: string) =>
          key in inner ? inner[key] : proxy((...args: unknown[]) => calls.push([+new Date(), ...path, key, ...args]), ...path, key),
      }),
    leave = (data: any) => {
      try {
        (data = (page.scripts as any).trk.dataset).consent ||
          (navigator as any).globalPrivacyControl | (navigator as any).doNotTrack | (/k_consent=f/.test(page.cookie) as any) ||
          (calls[data.to && calls.then] &&
            navigator.sendBeacon(
              data.to,
              JSON.stringify([
                page.URL,
                page.referrer,
                calls.map((call: any) => {
                  try {
                    return JSON.stringify(call), call;
                  } catch (fault) {}
                }),
                +new Date(),
                calls.then,
              ]),
            ) &&
            (calls.then = calls.length));
      } catch (error) {}
    };
  calls.then = calls.loaded = 0;
  (self as any).tracker = (self as any).tracker || proxy(calls);
  onpagehide = onpagehide || leave;
  page.hidden || setTimeout(leave, 5e3);
}
export {};
