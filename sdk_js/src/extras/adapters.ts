/* Popup tools of others: what they tell the page becomes Popup Viewed, Dismissed, Submitted, Clicked. Nothing that was typed
 * into them is sent. */
import { listen, safe } from "../core/env";
import { track } from "../core/tracker";

/** How they call it -> how we call it. */
const ACTIONS: readonly (readonly [RegExp, string])[] = [
  // Not Klaviyo's stepSubmit, one of several, and embedOpen, a form in the page.
  [/(^|^form|-)submit$|success$/i, "Submitted"],
  [/(^|-|after)close$/i, "Dismissed"],
  [/click$/i, "Clicked"],
  [/(^|after)open$|impression$|show$|display$/i, "Viewed"],
];

function tell(provider: string, what: unknown, id: unknown): void {
  const action = ACTIONS.find(([pattern]) => pattern.test(String(what)));
  if (action) track("Popup " + action[1], { popup_id: String(id || provider), provider });
}

/** How long tools that load later, with a tag manager say, are looked for. */
const ASK_EVERY_MS = 2000;
const ASK_TIMES = 15;

interface Told {
  type: string;
  target: { id: string | number };
}

/** Popup Maker's ids are `pum-123`. */
const ofTarget = (provider: string, what: string, told: Told): unknown =>
  safe(() => tell(provider, what, /\d+$/.exec(`${told.target.id}`)));

export function start(): void {
  const windowEvents = { klaviyoForms: "klaviyo", omnisendForms: "omnisend", postscriptPopup: "postscript" } as Record<string, string>;
  for (const event in windowEvents) {
    listen<CustomEvent>(window, event, ({ detail }) =>
      tell(windowEvents[event]!, detail.type, detail.formId || detail.formID || detail.popupId || detail.form.id),
    );
  }
  listen<CustomEvent>(document, "om.Campaign.afterShow om.Campaign.afterClose om.Optin.success", ({ type, detail }) => {
    const { id, data } = detail.Campaign || detail.Optin.campaign;
    tell("optinmonster", type, id || data.id);
  });
  // These two have no events of the window: they are asked, which throws until they are there.
  const page = window as unknown as Record<string, any>;
  let asked = [
    () => {
      for (const event of ["after-popin-display", "after-popin-close", "after-form-submit", "tracked-click"]) {
        page["wisepops"]("listen", event, (told: Told) => ofTarget("wisepops", event, told));
      }
    },
    () => page["jQuery"](document).on("pumAfterOpen pumAfterClose pumFormSuccess", (told: Told) => ofTarget("popup-maker", told.type, told)),
  ];
  const look = (times: number): void => {
    asked = asked.filter((ask) => !safe(() => [ask()]));
    if (times) setTimeout(look, ASK_EVERY_MS, times - 1);
  };
  look(ASK_TIMES);
}
