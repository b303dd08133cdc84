/* Popup tools of others: what they tell the page becomes Popup Viewed, Dismissed, Submitted, Clicked. Nothing that was typed
 * into them is sent. */
import { listen, safe } from "../core/env";
import { track } from "../core/tracker";

/** How they call it -> how we call it. */
const ACTIONS: readonly (readonly [RegExp, string])[] = [
  [/submit|success/i, "Submitted"],
  [/close/i, "Dismissed"],
  [/click/i, "Clicked"],
  [/open|show|view|impression|display/i, "Viewed"],
];

function tell(provider: string, what: unknown, id: unknown, name?: unknown): void {
  const action = ACTIONS.find(([pattern]) => pattern.test(String(what)));
  if (action) track("Popup " + action[1], { popup_id: String(id || provider), popup_name: name, provider });
}

interface JQueryEvent {
  type: string;
  target: Element;
}

export function start(): void {
  const windowEvents = { klaviyoForms: "klaviyo", omnisendForms: "omnisend", postscriptPopup: "postscript" } as Record<string, string>;
  for (const event in windowEvents) {
    listen<CustomEvent>(window, event, ({ detail }) =>
      tell(windowEvents[event]!, detail.type, detail.formId || detail.formID || detail.popupId || detail.form.id, detail.popupName),
    );
  }
  listen<CustomEvent>(document, "om.Campaign.afterShow om.Campaign.afterClose om.Optin.success", ({ type, detail }) => {
    const { id, data } = detail.Campaign || detail.Optin.campaign;
    tell("optinmonster", type, id || data.id);
  });
  // These two are asked for when the page is there: their own snippets may come later than this one.
  const ask = (): void => {
    const { wisepops, jQuery } = window as unknown as Record<string, any>;
    safe(() => {
      for (const event of ["after-popin-display", "after-popin-close", "after-form-submit", "tracked-click"]) {
        wisepops("listen", event, (told: Event) =>
          safe(() => tell("wisepops", event, (told.target as Element).id)),
        );
      }
    });
    safe(() =>
      jQuery(document).on("pumAfterOpen pumAfterClose pumFormSuccess", (event: JQueryEvent) =>
        safe(() => tell("popup-maker", event.type, /\d+$/.exec(event.target.id)![0])),
      ),
    );
  };
  if (document.readyState === "complete") ask();
  else listen(window, "load", ask);
}
