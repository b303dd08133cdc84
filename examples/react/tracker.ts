// What is not named here is not in the bundle. On a server this does nothing.
import { ecommerce, engagement, load } from "event-streaming-tracker-snippet";

export const tracker = load(
  import.meta.env.VITE_WRITE_KEY,
  { endpoint: import.meta.env.VITE_TRACKER, spa: "" }, // page views follow the router
  [ecommerce, engagement],
);
