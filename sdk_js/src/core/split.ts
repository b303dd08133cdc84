/* Segment's signatures, which every build of ours takes, and tracker/intake/calls.py of the stub's calls: tests/signatures.py
 * has them as a table. */
import type { Fields } from "./env";

const object = (value: any): Fields => (typeof value === "object" && value) || {};

/** The arguments of a call, without functions -> its texts, its properties or traits, its options. Up to `most` texts lead;
 * null or undefined stands for one that is left out, and behind them each thing has its place. */
export function split(args: any[], most = 1): [string[], Fields, Fields] {
  const texts: string[] = [];
  for (; most-- && Object(args[0]) !== args[0]; args.shift()) if (args[0] != null) texts.push(args[0] + "");
  return [texts, object(args[0]), object(args[1])];
}
