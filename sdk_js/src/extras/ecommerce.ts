/* ecommerce.productAdded({...}) = track("Product Added", {...}), for each name of Segment's ecommerce spec. */
import { methods, track } from "../core/tracker";
import { ECOMMERCE } from "../contract.gen";
import type { Fields } from "../core/env";

export function start(): void {
  for (const name of ECOMMERCE) {
    const method = name[0]!.toLowerCase() + name.slice(1).replace(/ (.)/g, (_, c: string) => c.toUpperCase());
    methods["ecommerce." + method] = (properties: Fields) => track(name, properties);
  }
}
