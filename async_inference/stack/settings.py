"""A stack's config as one typed, checked value, from `pulumi.Config` and from a stack file alike.

Nothing else reads config. Wrong values are refused together, before any resource is registered.
Sources: botocore's service models (BC), SageMaker developer guide (DG).
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator

from async_inference.aws_names import region_of
from async_inference.scaling.plan import PRESETS, ScalingPlan, ScalingRules
from async_inference.scaling.unsettled import Unsettled
from async_inference.scaling.waking import detection_s, wakes_from_zero
from async_inference.stack.groups import (
    Count,
    Observability,
    Retention,
    Security,
    Setup,
    Subscription,
    Updates,
)
from async_inference.stack.images import (
    DEFAULT_TAG,
    TORCHSERVE_REPOSITORY,
    Image,
    gpus,
    image_of,
)
from async_inference.validation import InvalidInputError, StackValue, problems_of, shown

PROJECT = "async-inference"

# fmt: off
INSTANCE_FAMILIES = frozenset(
    {
        "c4", "c5", "c5d", "c6g", "c6gd", "c6gn", "c6i", "c6in", "c7g", "c7i", "c8g", "dl1",
        "g4dn", "g5", "g6", "g6e", "g7", "g7e", "inf1", "inf2", "m4", "m5", "m5d", "m6g",
        "m6gd", "m6i", "m7i", "m8g", "p2", "p3", "p4d", "p4de", "p5", "p5e", "p5en",
        "p6-b200", "p6-b300", "p6e-gb200", "r5", "r5d", "r6g", "r6gd", "r6i", "r7gd", "r7i",
        "r8g", "trn1", "trn1n", "trn2",
    }
)
# fmt: on
"""Families that can serve and scale (BC ProductionVariantInstanceType, less the burstable t2)."""

PROVIDER_WAIT_S = 3600
"""The provider waits so long for an endpoint to be in service (docs/aws-facts.md#replacement)."""
MAX_TAGS = 49
"""AWS takes 50 (BC TagList); one is the endpoint's name, which the program adds."""
ENDPOINT_TAG = "endpoint"
"""The key of that tag: budgets, cost allocation and the deployer's permissions select by it."""
MAX_STACK_NAME = 52
"""What an endpoint's 63 characters (BC EndpointName) leave behind `async-sdxl-`."""
COMPONENT_VARIABLES = frozenset(
    {
        "MODEL_WEIGHTS",
        "SAGEMAKER_PROGRAM",
        "SAGEMAKER_REGION",
        "SAGEMAKER_SUBMIT_DIRECTORY",
        "HANDLER_CONCURRENCY",
        "RAYSERVE_BACKEND_TIMEOUT",
        "TS_DEFAULT_STARTUP_TIMEOUT",
        *(
            f"{server}_{limit}"
            for server in ("TS", "MMS")
            for limit in ("DEFAULT_RESPONSE_TIMEOUT", "MAX_REQUEST_SIZE", "MAX_RESPONSE_SIZE")
        ),
    }
)
"""Variables of the container that follow from other keys."""

REGION = r"^[a-z]{2,4}(-[a-z]+)+-\d$"
"""us-east-1, us-gov-west-1, us-isob-east-1, eusc-de-east-1: of every partition."""
S3_URI = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?$"
ECR_IMAGE = r"^\d{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.[a-z.]+/[a-z0-9][a-z0-9._/-]*([:@]\S+)?$"
HUB_ID = r"^[\w.-]+/[\w.-]+(@[\w.-]+)?$"
"""A Hugging Face id, which may name a branch, tag or commit: `org/name@revision`."""


def _decoded(value: object) -> object:
    # Pulumi hands object values to a program as JSON text.
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"must be an object; the text is not valid JSON ({error})") from error
    return value


def _absent(value: object) -> object:
    # Pulumi.yaml cannot declare an optional key without a default, so empty text stands for none.
    return None if value == "" else value


OptionalS3Uri = Annotated[
    Annotated[str, Field(max_length=512, pattern=S3_URI)] | None, BeforeValidator(_absent)
]
OptionalAmi = Annotated[
    Annotated[str, Field(max_length=63, pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9.])*$")] | None,
    BeforeValidator(_absent),
]
OptionalEcrImage = Annotated[
    Annotated[str, Field(max_length=255, pattern=ECR_IMAGE)] | None, BeforeValidator(_absent)
]


class Settings(StackValue):
    """What one stack deploys; every field is a config key of `Pulumi.yaml` in camelCase."""

    stack: str
    region: Annotated[str, Field(pattern=REGION)]

    instance_type: str = "ml.g4dn.2xlarge"
    min_capacity: Annotated[Count, Field(ge=0)] = 0
    max_capacity: Annotated[Count, Field(ge=1)] = 5
    scaling_preset: Literal["documented", "aws", "tuned", "announced", "custom"] = "documented"
    scaling_plan: Annotated[ScalingRules, BeforeValidator(_decoded)] = ScalingRules()
    setup: Annotated[Setup, BeforeValidator(_decoded)] = Setup()
    setup_s: Annotated[Count, Field(ge=0, le=3600)] = 0

    image_uri: OptionalEcrImage = None
    image_tag: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,127}$")] = DEFAULT_TAG
    inference_ami_version: OptionalAmi = None
    handler: str = "inference_code"
    weights: str = "stabilityai/stable-diffusion-xl-base-1.0"
    environment: Annotated[
        dict[
            Annotated[str, Field(max_length=1024, pattern=r"^[a-zA-Z_]\w*$")],
            Annotated[str, Field(max_length=1024)],
        ],
        BeforeValidator(_decoded),
        Field(default_factory=dict, max_length=80),
    ]

    max_concurrent_invocations_per_instance: Annotated[Count, Field(ge=1, le=1000)] = 1
    invocation_timeout_s: Annotated[Count, Field(ge=1, le=3600)] = 3600
    request_ttl_s: Annotated[Count, Field(ge=60, le=21_600)] = 21_600
    max_payload_bytes: Annotated[Count, Field(ge=1, le=2_000_000_000)] = 2_000_000_000
    model_download_timeout_s: Annotated[Count, Field(ge=60, le=3600)] = 1800
    startup_health_check_timeout_s: Annotated[Count, Field(ge=60, le=3600)] = 1800
    output_path: OptionalS3Uri = None
    failure_path: OptionalS3Uri = None

    subscriptions: Annotated[tuple[Subscription, ...], BeforeValidator(_decoded)] = ()

    security: Annotated[Security, BeforeValidator(_decoded)] = Security()
    retention: Annotated[Retention, BeforeValidator(_decoded)] = Retention()
    observability: Annotated[Observability, BeforeValidator(_decoded)] = Observability()
    updates: Annotated[Updates, BeforeValidator(_decoded)] = Updates()

    force_destroy_bucket: bool = False
    tags: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=128)],
            Annotated[str, Field(max_length=256)],
        ],
        BeforeValidator(_decoded),
        Field(default_factory=dict, max_length=MAX_TAGS),
    ]

    @field_validator("instance_type")
    @classmethod
    def _servable(cls, value: str) -> str:
        parts = re.fullmatch(r"ml\.([a-z0-9-]+)\.(\d*x?large|medium|metal)", value)
        if parts is None:
            raise ValueError("must look like ml.<family>.<size>, for example ml.g5.2xlarge")
        if parts[1] in {"t2", "t3"}:
            raise ValueError("burstable t2 and t3 instances cannot be scaled; use ml.g4dn or ml.g5")
        if parts[1] not in INSTANCE_FAMILIES:
            raise ValueError(f"SageMaker hosts no family {parts[1]!r}; use ml.g4dn or ml.g5")
        return value

    @field_validator("stack")
    @classmethod
    def _names_an_endpoint(cls, value: str) -> str:
        # BC EndpointName has fewer characters than a stack's name: two stacks could share one.
        if len(value) <= MAX_STACK_NAME and re.fullmatch(r"[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*", value):
            return value
        raise ValueError(
            "the endpoint is named after the stack, and another stack could get the same name; "
            "use letters, digits and single hyphens between them, at most "
            f"{MAX_STACK_NAME} characters: pulumi stack rename NAME"
        )

    @field_validator("tags")
    @classmethod
    def _taggable(cls, value: dict[str, str]) -> dict[str, str]:
        problems = list(_tag_problems(value))
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @field_validator("environment")
    @classmethod
    def _handlers_own(cls, value: dict[str, str]) -> dict[str, str]:
        taken = sorted(COMPONENT_VARIABLES & value.keys())
        if taken:
            raise ValueError(f"the program sets {', '.join(taken)} from other keys; remove it here")
        return value

    @field_validator("weights")
    @classmethod
    def _weights_source(cls, value: str) -> str:
        if value == "tiny" or re.match(S3_URI, value) or re.match(HUB_ID, value):
            return value
        raise ValueError(
            "must be an S3 URI (s3://bucket/prefix), a Hugging Face id (org/name, which may end in "
            "@revision) or tiny"
        )

    @cached_property
    def plan(self) -> ScalingPlan:
        """The scaling plan: the preset's rules, or the spelled-out ones, within the bounds."""
        custom = self.scaling_preset == "custom"
        rules = self.scaling_plan if custom else PRESETS[self.scaling_preset]
        return rules.within(self.min_capacity, self.max_capacity)

    @property
    def usual_setup_s(self) -> float:
        """Seconds from asking for an instance to its first request."""
        return float(self.setup_s) or self.setup.usual_s

    @property
    def first_setup_s(self) -> float:
        """The same of a new endpoint's first instance, whose image is in no cache."""
        return float(self.setup_s) or self.setup.first_s

    @property
    def image(self) -> Image:
        """What is known of the container's image."""
        return image_of(self.image_uri or self.image_tag)

    @property
    def endpoint_name(self) -> str:
        """The endpoint's stable name."""
        return f"async-sdxl-{self.stack}"


def _tag_problems(tags: Mapping[str, str]) -> Iterator[str]:
    """What AWS refuses about tags (BC Tag of SageMaker and IAM; IAM guide, tags: keys are compared
    without case)."""
    seen = {ENDPOINT_TAG: "the program's own tag"}
    for key, value in tags.items():
        if key.lower().startswith("aws:"):
            yield f"key {key!r}: aws: is reserved; choose another prefix"
        if not (_taggable(key) and _taggable(value)):
            yield f"{key}={value!r}: letters, digits, spaces and _ . : / = + - @ only"
        if key.lower() in seen:
            yield f"key {key!r}: is {seen[key.lower()]}, since IAM ignores case; rename it"
        seen.setdefault(key.lower(), f"the same as {key!r}")


def _taggable(text: str) -> bool:
    return all(unicodedata.category(c)[0] in "LZN" or c in "_.:/=+-@" for c in text)


def _default_tag_problems(value: object, tags: Mapping[str, str]) -> Iterator[str]:
    """The same of the provider's default tags, which every resource gets too."""
    try:
        document = _decoded(value)
    except ValueError as error:
        yield str(error)
        return
    found = document.get("tags", {}) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        yield "must be an object with a mapping `tags`"
        return
    defaults = {str(key): str(text) for key, text in found.items()}
    yield from _tag_problems(defaults)
    spellings = {key.lower(): key for key in tags}
    for key in defaults:
        own = spellings.get(key.lower(), key)
        if own != key:
            yield f"key {key!r}: is the same as {own!r} of tags, since IAM ignores case; rename it"
    together = len(defaults.keys() | tags.keys())
    if together > MAX_TAGS:
        yield f"{together} tags together with those of tags; at most {MAX_TAGS}"


@dataclass(frozen=True)
class _Rule:
    """A rule over several fields: skipped when one of them is wrong by itself."""

    fields: frozenset[str]
    problem: Callable[[Settings], str | None]


def _rule(*fields: str) -> Callable[[Callable[[Settings], str | None]], _Rule]:
    return lambda problem: _Rule(frozenset(fields), problem)


@_rule("min_capacity", "max_capacity")
def _bounds(settings: Settings) -> str | None:
    if settings.min_capacity <= settings.max_capacity:
        return None
    return (
        f"minCapacity = {settings.min_capacity}: exceeds maxCapacity = {settings.max_capacity}; "
        "lower minCapacity or raise maxCapacity"
    )


@_rule("scaling_preset", "scaling_plan")
def _one_plan(settings: Settings) -> str | None:
    if settings.scaling_preset == "custom" or settings.scaling_plan == ScalingRules():
        return None
    return (
        f"scalingPreset = {settings.scaling_preset!r}: scalingPlan is set too and would be "
        "ignored; set scalingPreset to custom, or remove scalingPlan"
    )


@_rule("min_capacity", "max_capacity", "scaling_preset", "scaling_plan")
def _leaves_zero(settings: Settings) -> str | None:
    if settings.min_capacity > settings.max_capacity or wakes_from_zero(settings.plan, Unsettled()):
        return None
    return (
        "minCapacity = 0: no policy ever leaves zero, so that requests would wait until they "
        "expire; add a step policy on HasBacklogWithoutCapacity to scalingPlan, or set "
        "minCapacity to 1"
    )


@_rule("setup", "setup_s")
def _one_setup(settings: Settings) -> str | None:
    if not settings.setup_s or settings.setup == Setup():
        return None
    return (
        f"setupS = {settings.setup_s}: setup gives the same time in parts; remove setupS, which "
        "is their sum as one number, or setup"
    )


@_rule(
    *("min_capacity", "max_capacity", "scaling_preset", "scaling_plan", "request_ttl_s"),
    *("setup", "setup_s"),
)
def _outlives_cold_start(settings: Settings) -> str | None:
    if settings.min_capacity > settings.max_capacity or settings.min_capacity > 0:
        return None
    detected_s = detection_s(settings.plan, Unsettled())
    if detected_s is None or settings.request_ttl_s >= detected_s + settings.usual_setup_s:
        return None
    return (
        f"requestTtlS = {settings.request_ttl_s}: a request to an idle endpoint expires before any "
        f"instance exists (detection up to {detected_s:.0f} s + setup "
        f"{settings.usual_setup_s:.0f} s); set it to "
        f"{math.ceil(detected_s + settings.usual_setup_s)} or more"
    )


@_rule("handler")
def _handler_exists(settings: Settings) -> str | None:
    if (Path(settings.handler) / "inference.py").is_file():
        return None
    return (
        f"handler = {settings.handler!r}: holds no inference.py; "
        "name the folder with the code that the container runs"
    )


@_rule("security", "weights")
def _isolated_weights(settings: Settings) -> str | None:
    if not settings.security.network_isolation or not re.match(HUB_ID, settings.weights):
        return None
    return (
        "security.networkIsolation = True: the container could not download the weights "
        f"{settings.weights!r}; put them on S3 and name that prefix, or turn the isolation off"
    )


@_rule("security", "region")
def _key_of_region(settings: Settings) -> str | None:
    security, region = settings.security, settings.region
    named = {
        "encryption": [security.given_key_arn] if security.given_key_arn else [],
        "otherKeyArns": list(security.other_key_arns),
    }
    for field, arns in named.items():
        for arn in arns:
            if region_of(arn) != region:
                return (
                    f"security.{field} = {arn!r}: is a key of another region than {region}; "
                    "S3, SNS and SageMaker use keys of their own region only"
                )
    return None


@_rule("image_uri", "region")
def _image_of_region(settings: Settings) -> str | None:
    parts = re.match(r"\d+\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.", settings.image_uri or "")
    if parts is None or parts[1] == settings.region:
        return None
    return (
        f"imageUri = {settings.image_uri!r}: is in {parts[1]}, the stack in {settings.region}; "
        "SageMaker pulls images of its own region only: copy it there"
    )


@_rule("image_uri", "image_tag", "instance_type")
def _every_gpu_serves(settings: Settings) -> str | None:
    """TorchServe tells a copy of the model its GPU as a property only, which model_fn does not get:
    every copy would load onto the first."""
    count = gpus(settings.instance_type)
    own = settings.image_uri is not None and f"/{TORCHSERVE_REPOSITORY}:" not in settings.image_uri
    if count == 1 or settings.image.serving == "ray" or own:
        return None
    return (
        f"instanceType = {settings.instance_type!r}: has {count} GPUs, of which an image with "
        f"TorchServe uses one; use imageTag {DEFAULT_TAG}, or a type with one GPU"
    )


@_rule("subscriptions", "observability")
def _listeners_hear(settings: Settings) -> str | None:
    heard = settings.observability.enabled
    if heard or not any(each.topic == "operations" for each in settings.subscriptions):
        return None
    return (
        "subscriptions: one is of topic operations, to which nothing publishes while "
        "observability.enabled is false; enable it, or remove the subscription"
    )


@_rule("updates", "min_capacity")
def _capacity_carries_steps(settings: Settings) -> str | None:
    """With one instance only all at once fits (docs/aws-facts.md#guardrails); an update starts from
    InitialInstanceCount (TF #48990)."""
    updates, fleet = settings.updates, max(1, settings.min_capacity)
    if updates.strategy == "all_at_once" or updates.step_percent * fleet >= 100:
        return None
    instances = "1 instance" if fleet == 1 else f"{fleet} instances"
    fits = math.ceil(100 / fleet)
    remedy = f"stepPercent {fits} or more fits, as does" if fits <= 50 else "use"
    return (
        f"updates.strategy = {updates.strategy!r}: an update starts with {instances} (minCapacity, "
        f"at least 1), of which {updates.step_percent} % is less than one; {remedy} all_at_once"
    )


@_rule("updates", "setup", "setup_s")
def _provider_outlasts(settings: Settings) -> str | None:
    updates = settings.updates
    waits_s = updates.steps * updates.wait_s + updates.termination_wait_s
    if waits_s + settings.first_setup_s <= PROVIDER_WAIT_S or not waits_s:
        return None
    return (
        f"updates.waitS = {updates.wait_s}: an update would take {waits_s} s of waiting and "
        f"setup {settings.first_setup_s:.0f} s, and the provider gives up after "
        f"{PROVIDER_WAIT_S} s; "
        "shorten waitS or terminationWaitS, or take larger steps"
    )


_RULES = (
    _bounds,
    _one_plan,
    _one_setup,
    _leaves_zero,
    _outlives_cold_start,
    _handler_exists,
    _isolated_weights,
    _key_of_region,
    _image_of_region,
    _every_gpu_serves,
    _listeners_hear,
    _capacity_carries_steps,
    _provider_outlasts,
)


def load(values: Mapping[str, object], *, stack: str) -> Settings:
    """Check a stack's config.

    Args:
        values: fully qualified keys (`async-inference:minCapacity`, `aws:region`) to values, as
            text or as what YAML made of them.
        stack: the stack's name.

    Raises:
        InvalidInputError: with every problem, each naming its key, value, rule and remedy.
    """
    own = {
        key.removeprefix(f"{PROJECT}:"): value
        for key, value in values.items()
        if key.startswith(f"{PROJECT}:")
    }
    problems: list[str] = []
    for reserved in {"stack", "region"} & own.keys():
        own.pop(reserved)
        problems.append(f"{PROJECT}:{reserved}: no such key; remove it (the region is aws:region)")
    if "aws:region" not in values:
        problems.append(
            f"aws:region: is required; pulumi config set aws:region <region> -s {stack}"
        )
    settings, wrong, found = checked(
        {**own, "stack": stack, "region": values.get("aws:region", "us-east-1")}
    )
    problems += map(_qualified, found)
    if "aws:defaultTags" in values:
        tags = {} if "tags" in wrong else settings.tags
        problems += [
            f"aws:defaultTags: {problem}"
            for problem in _default_tag_problems(values["aws:defaultTags"], tags)
        ]
    if problems:
        raise InvalidInputError(problems)
    return settings


def checked(candidate: dict[str, object]) -> tuple[Settings, set[str], list[str]]:
    """The settings as far as they are right, the fields that are wrong, and every problem.

    What is right is kept, so that rules over several keys still report in the same message.

    Args:
        candidate: values by their keys in camelCase, `stack` and `region` among them.
    """
    wrong: set[str] = set()
    problems: list[str] = []
    try:
        settings = Settings.model_validate(candidate)
    except ValidationError as error:
        problems += problems_of(error)
        keys = {str(problem["loc"][0]) for problem in error.errors()}
        wrong |= {name for name, field in Settings.model_fields.items() if field.alias in keys}
        right = {key: value for key, value in candidate.items() if key not in keys}
        settings = Settings.model_validate({"region": "us-east-1", "stack": "stack"} | right)
    for rule in _RULES:
        if rule.fields & wrong:
            continue
        try:
            problem = rule.problem(settings)
        except ValidationError as error:  # the plan's own rules, seen when it gets its bounds
            wrong |= {"scaling_plan"}
            problems += problems_of(error, ("scalingPlan",))
            continue
        if problem is not None:
            problems.append(problem)
    return settings, wrong, problems


def _qualified(problem: str) -> str:
    if problem.startswith("stack = "):
        return problem
    return f"aws:{problem}" if re.match(r"region\b", problem) else f"{PROJECT}:{problem}"


def from_stack_file(path: Path) -> Settings:
    """The settings of `Pulumi.<stack>.yaml`.

    Raises:
        InvalidInputError: no such file, no YAML, or wrong values.
    """
    parts = re.fullmatch(r"Pulumi\.(.+)\.ya?ml", path.name)
    if parts is None:
        raise InvalidInputError([f"{path}: a stack file is called Pulumi.<stack>.yaml"])
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        known = sorted(file.name for file in path.parent.glob("Pulumi.*.yaml"))
        raise InvalidInputError(
            [f"{path}: cannot be read ({error.strerror}); stack files here: {', '.join(known)}"]
        ) from error
    return from_stack_text(text, stack=parts[1], origin=str(path))


def from_stack_text(text: str, *, stack: str, origin: str) -> Settings:
    """The settings of a stack file's text; `origin` names it in messages."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(
            [f"{origin}: is not valid YAML ({' '.join(str(error).split())})"]
        ) from error
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise InvalidInputError([f"{origin} = {shown(document)}: must hold a mapping `config`"])
    return load(config, stack=stack)


def provider_values(values: Mapping[str, object]) -> dict[str, object]:
    """The AWS provider's part of a stack's config, by its keys without `aws:`."""
    return {
        key.removeprefix("aws:"): value for key, value in values.items() if key.startswith("aws:")
    }


def pulumi_values() -> dict[str, Any]:
    """The config of the stack that Pulumi is running now, by fully qualified keys."""
    # Here, since the rehearsal reads stack files without loading Pulumi.
    from pulumi.runtime import config

    # pulumi.Config cannot list its keys, and unknown keys must be refused.
    return {**config.get_config_env(), **config.CONFIG.get()}


def from_pulumi() -> Settings:
    """The settings of the stack that Pulumi is running now."""
    import pulumi

    return load(pulumi_values(), stack=pulumi.get_stack())
