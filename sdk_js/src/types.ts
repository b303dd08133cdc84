import type { Ecommerce, POPUP_ACTIONS } from "./contract.gen";

/** What load() takes; as data attributes of the script: `data-endpoint`, `data-consent`, ... */
export interface Options {
  /** Where events go, `https://t.example`. Default: where the script comes from. */
  endpoint?: string;
  /** Path of batches at the endpoint. Default `/v1/batch`. */
  path?: string;
  /** `required`: until consent(true) nothing is stored or sent; events wait in memory. */
  consent?: string;
  /** `none`: nothing is stored at the visitor's, before consent(true); ids live as long as the page. */
  storage?: string;
  /** `server`: the endpoint, on a subdomain of the site, sets the visitor's cookie, too (site setting `cookie_domain`). */
  cookie?: string;
  /** `ignore`: Global Privacy Control and Do Not Track do not count as a no. */
  dnt?: string;
  /** Page views are told by the script: the first one, and those of a single-page application. `hash`: also of #routes. */
  spa?: string;
  /** Of the full build, which extras run, separated by spaces: `engagement clicks forms popups datalayer`. */
  auto?: string;
  /** Other domains of the site, separated by spaces: links to them carry the visitor's id. */
  linker?: string;
}

/** A popup by rule: `popup.register({...})`. */
export interface Popup {
  id: string;
  /** What must hold; default: 30 seconds on the site, 2 pages and half of a page seen, all three. */
  when?: When;
  /** Default: once a visit, once in 24 hours, not for 30 days after it was submitted. */
  cap?: { perVisit?: number; hours?: number; daysAfterSubmit?: number };
  /** The trait that it asks for, `email`: who has been identified with it does not see it. */
  asks?: string;
  /** Share of visitors, 0 to 1, who are eligible and see nothing. */
  holdout?: number;
  /** Draws it, and tells what becomes of it. false: it was not shown. */
  show: (told: Told) => unknown;
  /** Set while it is shown. */
  open?: boolean;
}

export interface Told {
  clicked(properties?: Record<string, unknown>): void;
  dismissed(properties?: Record<string, unknown>): void;
  submitted(properties?: Record<string, unknown>): void;
}

export interface When {
  /** Seconds in which a page of this visit was visible. */
  secondsOnSite?: number;
  pages?: number;
  /** How far down a page was seen. */
  scrollPercent?: number;
  inactiveSeconds?: number;
  /** When the pointer leaves over the top of the page. */
  exitIntent?: boolean;
  /** One of them is enough. */
  any?: boolean;
  /** Also within the first 5 seconds of a visit. */
  onArrival?: boolean;
}

type Properties = Record<string, unknown>;
type Done = () => void;

/** Behind the properties or traits of a call. */
export interface CallOptions {
  timestamp?: string | number | Date;
  anonymousId?: string;
  /** Unique by event; made where it is missing. */
  messageId?: string;
  /** Laid over what the snippet says of page and browser. */
  context?: Properties;
  integrations?: Properties;
}

type Rest<P = Properties> = [properties?: P | null, options?: CallOptions | null, done?: Done] | [properties: P | null, done: Done] | [done: Done];

/** Properties of an event: those of the ecommerce spec have their types, and more may stand beside them. */
export type PropertiesOf<Name> = Name extends keyof Ecommerce ? Ecommerce[Name] | (Ecommerce[Name] & Properties) : Properties;

/** Segment's signatures. Arguments in the middle may be left out; a last function is called back. Nothing throws. */
export interface Tracker {
  page(...args: Rest): Promise<void>;
  page(name: string, ...args: Rest): Promise<void>;
  page(category: string, name: string, ...args: Rest): Promise<void>;
  screen(name: string, ...args: Rest): Promise<void>;
  screen(category: string, name: string, ...args: Rest): Promise<void>;
  track<Name extends EventName>(event: Name, ...args: Rest<PropertiesOf<Name>>): Promise<void>;
  identify(...args: Rest): Promise<void>;
  identify(userId: string | number | null, ...args: Rest): Promise<void>;
  group(groupId: string | number, ...args: Rest): Promise<void>;
  /** The group that this page has told of. */
  group(): { id(): string | null; traits(): Properties };
  alias(userId: string | number, previousId?: string | number | null, options?: CallOptions | null, done?: Done): Promise<void>;
  /** An event when an element, or one of a list, is clicked; name and properties may be functions of the element. */
  trackLink: TrackElements;
  /** The same when a form is submitted. */
  trackForm: TrackElements;
  /** Another person from here on. */
  reset(): Promise<void>;
  setAnonymousId(id: string): Promise<void>;
  /** Who is here, and what this page has said of them. With an argument they are set. */
  user(): { id(id?: string | null): string | null; anonymousId(id?: string): string; traits(): Properties };
  /** What the person says to being tracked: true or `granted` is a yes; by category, `analytics` decides. */
  consent(choice: boolean | string | Record<string, boolean | string>): Promise<void>;
  optOut(): Promise<void>;
  flush(): Promise<void>;
  ready(done: Done): Promise<void>;
  /** `event`: a call's name (its arguments are handed on), or `message` (each message before it waits to leave). */
  on(event: string, listener: (...args: any[]) => void): Promise<void>;
  once(event: string, listener: (...args: any[]) => void): Promise<void>;
  off(event: string, listener: (...args: any[]) => void): Promise<void>;
  /** Shows (false: hides) the events as they leave. */
  debug(shown?: boolean): Promise<void>;
  /** With the extra `popups`. */
  popup: { register(popup: Popup): Promise<void>; show(id: string): Promise<void> };
  /** With the extra `ecommerce`. */
  ecommerce: { [Name in keyof Ecommerce as Camel<Name>]: (...args: Rest<PropertiesOf<Name>>) => Promise<void> };
}

type TrackElements = (
  elements: Element | ArrayLike<Element>,
  event: string | ((element: Element) => string),
  properties?: Properties | ((element: Element) => Properties),
) => Promise<void>;

/** Any name; those that signals look at are suggested. */
export type EventName = keyof Ecommerce | keyof typeof POPUP_ACTIONS | (string & {});

/** "Product Added" -> "productAdded" */
type Camel<Name extends string> = Name extends `${infer First} ${infer Rest}` ? `${Lowercase<First>}${Joined<Rest>}` : Lowercase<Name>;
type Joined<Name extends string> = Name extends `${infer First} ${infer Rest}` ? `${Capitalize<First>}${Joined<Rest>}` : Capitalize<Name>;
