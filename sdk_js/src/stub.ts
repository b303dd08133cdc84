/* What a page pastes: it queues the calls made before t.js has loaded, each with its time in `t`.
 * The queue is an array of [method, ...arguments]: the form that Segment's snippet uses, so t.js takes over either. */
interface Call extends Array<unknown> {
  t?: number;
}
(function (name: string) {
  const queue: any = ((window as any)[name] = (window as any)[name] || []);
  if (!queue.track) {
    "page track identify group alias reset flush ready".split(" ").forEach((method) => {
      queue[method] = function () {
        const call: Call = [method].concat([].slice.call(arguments));
        call.t = Date.now();
        queue.push(call);
      };
    });
  }
})("tracker");
