/* ecommerce.productAdded({...}) = track("Product Added", {...}), and so on for the names of Segment's ecommerce spec; types.ts
 * has the list. A list here would be 180 bytes: the name is made of the method's, and whatever ends like one of them is one. */
import { methods, track } from "../core/tracker";
import type { CallOptions } from "../types";
import type { Fields } from "../core/env";

export function start(): void {
  methods["ecommerce."] = function (this: string, properties: Fields, given?: CallOptions) {
    const [, name] = /\.(.+(ed|Cart|Wishlist))$/.exec(this)!;
    const words = name!.replace(/[A-Z]/g, " $&");
    track(words.replace(/^.| To | From /g, (part) => (part[1] ? part.toLowerCase() : part.toUpperCase())), properties, given);
  };
}
