"""The policy pack. Its rules are in `rules`, because the pack's constructor starts a server."""

from pulumi_policy import EnforcementLevel, PolicyPack
from rules import RULES

PolicyPack("async-inference", policies=RULES, enforcement_level=EnforcementLevel.MANDATORY)
