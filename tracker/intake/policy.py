"""What a site lets the intake keep, made once a site from its table in tracker.toml."""

from __future__ import annotations

from hashlib import blake2b

from tracker.contract.sites import Site
from tracker.intake import device
from tracker.intake.draft import Policy


def policy_of(site: Site) -> Policy:
    device.load()  # 0.3 s that no first event should wait for
    salt = blake2b(site.secret_key.encode(), digest_size=16, person=b"without-consent").digest()
    return Policy(site.ip, site.bots, site.consent, site.consent_category.lower(), site.without_consent, salt)
