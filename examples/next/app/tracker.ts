// The tags' object, with the package's types: nothing of it is in the bundle.
import type { Tracker } from "event-streaming-tracker-snippet";

declare global {
  interface Window {
    tracker: Tracker;
  }
}

export const tracker = (): Tracker => window.tracker;
