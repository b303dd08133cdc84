"""Who sends: the steps whose findings come from the context and the request alone, taken once for both.

The events of a request mostly share their context. So these steps stand in a tuple of their own, and their findings
serve for each event behind the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tracker.intake.campaign import put_campaign
from tracker.intake.context import PAGES, read_context, read_page
from tracker.intake.device import flag_bot, put_device
from tracker.intake.draft import NO_CONTEXT, Call, Context, Draft, Visitor
from tracker.intake.privacy import apply_consent, forget, put_ip
from tracker.rejections import Refusal

VisitorStep = Callable[[Visitor, Call], Refusal | None]

OWN_PAGE: Final = b"-"
"""Equal to no context: the page was the event's own."""

VISITOR_STEPS: Final[tuple[VisitorStep, ...]] = (put_campaign, put_device, flag_bot, put_ip, apply_consent)


def put_visitor(draft: Draft, call: Call) -> Refusal | None:
    wire, said, visitor = draft.wire, draft.context, call.visitor
    if visitor is None or said != call.said or (wire.type in PAGES and not visitor.context.url):
        context = read_context(said) if said else NO_CONTEXT
        if isinstance(context, Refusal):
            return context
        call.said = said
        if wire.type in PAGES and not context.url:
            context, call.said = read_page(draft, context), OWN_PAGE
        visitor = call.visitor = visitor_of(context, call)
    draft.visitor = visitor
    wire.context = visitor.written_context
    if visitor.daily_id:
        return forget(draft)
    return visitor.refusal


def visitor_of(context: Context, call: Call) -> Visitor:
    visitor = Visitor(context, context.raw)
    for step in VISITOR_STEPS:
        visitor.refusal = step(visitor, call)
        if visitor.refusal is not None:
            return visitor
    campaign = visitor.campaign
    visitor.written = b"".join(
        (campaign.written, campaign.clicks_written, visitor.device, visitor.bot, visitor.ip, visitor.consent)
    )
    return visitor
