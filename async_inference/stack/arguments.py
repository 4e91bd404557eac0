"""The arguments of an endpoint, typed and checked: one model for a stack's config, for programs in
Python and for the component plugin.

Wrong values are refused together, before any resource is registered. `Pulumi.yaml`'s config, the
plugin's schema and docs/configuration.md are generated from these models, so the docstring of a
field is what all three say of it.

Sources: botocore's service models (BC), SageMaker developer guide (DG).
"""

import json
import math
import re
import unicodedata
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_snake

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
    MODEL_SERVER_VARIABLES,
    TORCHSERVE_REPOSITORY,
    Image,
    gpu_count,
    image_of,
)
from async_inference.validation import InvalidInputError, StackValue, problems_of

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
"""How long the provider waits for an endpoint to be in service (docs/aws-facts.md#replacement)."""
MAX_TAGS = 49
"""AWS takes 50 (BC TagList); one is the endpoint's name, which the component adds."""
ENDPOINT_TAG = "endpoint"
"""The key of that tag: budgets, cost allocation and the deployer's permissions select by it."""
COMPONENT_VARIABLES = MODEL_SERVER_VARIABLES | {
    "MODEL_WEIGHTS",
    "SAGEMAKER_PROGRAM",
    "SAGEMAKER_REGION",
    "SAGEMAKER_SUBMIT_DIRECTORY",
}
"""Variables of the container that follow from other arguments."""

REGION = r"^[a-z]{2,4}(-[a-z]+)+-\d$"
"""us-east-1, us-gov-west-1, us-isob-east-1, eusc-de-east-1: of every partition."""
S3_URI = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?$"
ECR_IMAGE = r"^\d{12}\.dkr\.ecr(-fips)?\.[a-z0-9-]+\.[a-z.]+/[a-z0-9][a-z0-9._/-]*([:@]\S+)?$"
HUB_ID = r"^[\w.-]+/[\w.-]+(@[\w.-]+)?$"
"""A Hugging Face id, which may name a branch, tag or commit: `org/name@revision`."""
AMI_VERSION = r"^[a-zA-Z0-9](-*[a-zA-Z0-9.])*$"
ENDPOINT_NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
"""BC EndpointName."""


def _decoded(value: object) -> object:
    # Pulumi hands object values to a program as JSON text.
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"must be an object; the text is not valid JSON ({error})") from error
    return value


def _checked_if_known(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Text is checked; another resource's output is left to AWS (pulumi.Input)."""
    later = isinstance(value, Awaitable) or callable(getattr(value, "apply", None))
    return value if later else check(value)


FROM_JSON = BeforeValidator(_decoded)
S3Uri = Annotated[str, Field(max_length=512, pattern=S3_URI)]
EcrImage = Annotated[str, Field(max_length=255, pattern=ECR_IMAGE)]
MAY_BE_OUTPUT = "may_be_output"
"""Marks, in the models' JSON schema, what may be another resource's output."""
if TYPE_CHECKING:
    from pulumi import Input

    LateText = LateS3Uri = LateEcrImage = Input[str]
else:
    # Stack files are checked where Pulumi is not installed.
    _Late = WrapValidator(_checked_if_known), Field(json_schema_extra={MAY_BE_OUTPUT: True})
    LateText = Annotated[str, *_Late]
    LateS3Uri = Annotated[S3Uri, *_Late]
    LateEcrImage = Annotated[EcrImage, *_Late]


EXAMPLES = {"endpoint_name": "images", "region": "us-east-1", "variant_name": "AllTraffic"}
"""Stand in for required arguments that are missing or wrong, while the others are checked."""


class Arguments(StackValue):
    """A model whose construction fails with every problem at once, as sentences.

    Raises:
        InvalidInputError: by construction and validation, each problem with its key as the caller
            wrote it (camelCase or snake_case), value, rule and remedy.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _with_every_problem(cls, given: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            return validate(given)
        names = {field.alias: name for name, field in cls.model_fields.items()}
        wrong: set[str] = set()
        problems: list[str] = []
        try:
            args = validate(given)
        except ValidationError as error:
            problems += problems_of(error)
            keys = {str(problem["loc"][0]) for problem in error.errors()}
            wrong |= {names.get(key, key) for key in keys}
            # What is right is kept, so that rules over several keys report in the same message.
            args = validate(
                {name: example for name, example in EXAMPLES.items() if name in wrong}
                | {key: value for key, value in given.items() if names.get(key, key) not in wrong}
            )
        for rule in _RULES:
            if rule.fields - cls.model_fields.keys() or rule.fields & wrong:
                continue
            try:
                problem = rule.problem(args)
            except ValidationError as error:  # the plan's own rules, seen when it gets its bounds
                wrong |= {"scaling_plan"}
                problems += problems_of(error, ("scalingPlan",))
                continue
            if problem is not None:
                problems.append(problem)
        if problems:
            spelled_as_config = any(key in names and names[key] != key for key in given)
            raise InvalidInputError(
                problems if spelled_as_config else map(cls._in_snake_case, problems)
            )
        return args

    @classmethod
    def _in_snake_case(cls, problem: str) -> str:
        """A problem with its keys as Python writes them; quoted values stay as they are."""
        schema = cls.model_json_schema()
        keys = {
            key
            for model in (schema, *schema.get("$defs", {}).values())
            for key in model.get("properties", ())
        }
        return re.sub(
            r"""(?<!\w)('[^']*'|"[^"]*")|\b[a-z]+([A-Z][a-z]*)+\b""",
            lambda found: to_snake(found[0]) if found[0] in keys else found[0],
            problem,
        )


class ScalingArgs(Arguments):
    """What runs, how many of it, and what scales it."""

    instance_type: str = "ml.g4dn.2xlarge"
    """Type of each instance, ml.<family>.<size>; burstable t2 and t3 cannot be scaled"""
    min_capacity: Annotated[Count, Field(ge=0)] = 0
    """Fewest instances; 0 costs nothing while idle and needs a policy that scales out from zero"""
    max_capacity: Annotated[Count, Field(ge=1)] = 5
    """Most instances; your quota for the instance type must allow them"""
    scaling_preset: Literal["documented", "aws", "tuned", "announced", "custom"] = "documented"
    """Scaling policies: documented, aws, tuned, announced (tuned, and clients announce their
    requests), or custom for those in scalingPlan"""
    scaling_plan: Annotated[ScalingRules, FROM_JSON] = ScalingRules()
    """Policies and schedules of the custom preset, see docs/scaling.md"""
    tags: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=128)],
            Annotated[str, Field(max_length=256)],
        ],
        FROM_JSON,
    ] = Field(default_factory=dict, max_length=MAX_TAGS)
    """Tags for every resource that takes them, beside endpoint, the endpoint's name; at most 49"""

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

    @field_validator("tags")
    @classmethod
    def _accepted_as_tags(cls, value: dict[str, str]) -> dict[str, str]:
        problems = list(_tag_problems(value))
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @cached_property
    def plan(self) -> ScalingPlan:
        """The preset's policies, or those of `scaling_plan`, within the capacity bounds."""
        custom = self.scaling_preset == "custom"
        rules = self.scaling_plan if custom else PRESETS[self.scaling_preset]
        return rules.within(self.min_capacity, self.max_capacity)


class AsyncEndpointArgs(ScalingArgs):
    """What an asynchronous endpoint is made of."""

    endpoint_name: str
    """The endpoint's stable name; it updates in place"""
    region: Annotated[str, Field(pattern=REGION)]
    """Region of the endpoint and of everything around it"""

    image_uri: LateEcrImage | None = None
    """ECR image of the container; without one, AWS's with imageTag. Unless its tag names its Python
    (py312) or it is a Ray Serve image of AWS, the container installs the handler's requirements.txt
    at each start"""
    image_tag: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,127}$")] = DEFAULT_TAG
    """Tag of AWS's image, in repository ray (serve-ml-sagemaker-...) or pytorch-inference
    (TorchServe), looked up in the endpoint's region; unused when imageUri is set"""
    inference_ami_version: Annotated[str, Field(max_length=63, pattern=AMI_VERSION)] | None = None
    """Drivers under the container (InferenceAmiVersion); by default, what the image needs"""
    handler: Path = Path("inference_code")
    """Folder with inference.py and what it imports, packaged by content"""
    weights: str = "stabilityai/stable-diffusion-xl-base-1.0"
    """Where the weights are: an S3 prefix or .tar.gz, a Hugging Face id, or tiny"""
    environment: Annotated[
        dict[
            Annotated[str, Field(max_length=1024, pattern=r"^[a-zA-Z_]\w*$")],
            Annotated[str, Field(max_length=1024)],
        ],
        FROM_JSON,
    ] = Field(default_factory=dict, max_length=80)
    """Variables for the handler, name to text; at most 80"""

    max_concurrent_invocations_per_instance: Annotated[Count, Field(ge=1, le=1000)] = 1
    """Requests that one instance works on at the same time, 1..1000; 1 for one GPU and SDXL"""
    invocation_timeout_s: Annotated[Count, Field(ge=1, le=3600)] = 3600
    """Seconds for one inference, 1..3600; the model server's timeouts follow from it"""
    request_ttl_s: Annotated[Count, Field(ge=60, le=21_600)] = 21_600
    """Seconds until an unserved request expires, 60..21600; must outlast a cold start"""
    max_payload_bytes: Annotated[Count, Field(ge=1, le=2_000_000_000)] = 2_000_000_000
    """Largest request and response that the model server takes, in bytes"""
    model_download_timeout_s: Annotated[Count, Field(ge=60, le=3600)] = 1800
    """Seconds to download the model to an instance, 60..3600"""
    startup_health_check_timeout_s: Annotated[Count, Field(ge=60, le=3600)] = 1800
    """Seconds until the container must have loaded and answer, 60..3600"""
    setup: Annotated[Setup, FROM_JSON] = Setup()
    """Time from requesting an instance to its first request, in parts, for checks and rehearsals;
    see docs/rehearsal.md"""
    setup_s: Annotated[Count, Field(ge=1, le=3600)] | None = None
    """The same as one number of seconds, 1..3600, where its parts are not known"""

    output_path: LateS3Uri | None = None
    """S3 URI for outputs; by default, a prefix of the endpoint's bucket"""
    failure_path: LateS3Uri | None = None
    """S3 URI for failures; by default, a prefix of the endpoint's bucket"""
    subscriptions: Annotated[tuple[Subscription, ...], FROM_JSON] = ()
    """Who is told how requests end and when alarms fire"""

    security: Annotated[Security, FROM_JSON] = Security()
    """Keys and network, see docs/security.md"""
    retention: Annotated[Retention, FROM_JSON] = Retention()
    """Days until deletion"""
    observability: Annotated[Observability, FROM_JSON] = Observability()
    """Alarms, dashboard and budget, see docs/operations.md"""
    updates: Annotated[Updates, FROM_JSON] = Updates()
    """How updates shift traffic, see docs/operations.md"""
    force_destroy_bucket: bool = False
    """Delete the bucket's objects with the bucket on destroy"""

    provider_config: dict[str, Any] | None = Field(default=None, repr=False)
    """Configuration of an explicit provider, by the keys of aws: config (profile, assumeRoles): the
    component's hooks call AWS themselves, and refuse to where they would reach another account. By
    default, the stack's aws: config"""

    @field_validator("endpoint_name")
    @classmethod
    def _accepted_as_name(cls, value: str) -> str:
        if not re.fullmatch(ENDPOINT_NAME, value):
            raise ValueError(
                "must be letters, digits and hyphens between them, at most 63 characters"
            )
        return value

    @field_validator("environment")
    @classmethod
    def _free_of_component_variables(cls, value: dict[str, str]) -> dict[str, str]:
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

    @property
    def usual_setup_s(self) -> float:
        """Seconds from requesting an instance to its first request."""
        return self.setup.usual_s if self.setup_s is None else float(self.setup_s)

    @property
    def first_setup_s(self) -> float:
        """The same for a new endpoint's first instance, whose image is in no cache."""
        return self.setup.first_s if self.setup_s is None else float(self.setup_s)

    @property
    def known_image_uri(self) -> str | None:
        """The image's URI, None where it is looked up or another resource's output."""
        return self.image_uri if isinstance(self.image_uri, str) else None

    @property
    def image(self) -> Image:
        """What is known of the container's image before anything is deployed."""
        return image_of(self.image_tag if self.image_uri is None else self.known_image_uri or "")


def _tag_problems(tags: Mapping[str, str]) -> Iterator[str]:
    """What AWS refuses about tags (BC Tag of SageMaker and IAM; IAM guide, tags: keys are compared
    without case)."""
    seen = {ENDPOINT_TAG: "the program's own tag"}
    for key, value in tags.items():
        if key.lower().startswith("aws:"):
            yield f"key {key!r}: aws: is reserved; choose another prefix"
        if not (_allowed_in_tags(key) and _allowed_in_tags(value)):
            yield f"{key}={value!r}: letters, digits, spaces and _ . : / = + - @ only"
        if key.lower() in seen:
            yield f"key {key!r}: is {seen[key.lower()]}, since IAM ignores case; rename it"
        seen.setdefault(key.lower(), f"the same as {key!r}")


def _allowed_in_tags(text: str) -> bool:
    return all(unicodedata.category(c)[0] in "LZN" or c in "_.:/=+-@" for c in text)


def _provider_tag_problems(value: object, tags: Mapping[str, str]) -> Iterator[str]:
    """What AWS refuses about the provider's default tags, which every resource gets too."""
    try:
        document = _decoded(value)
    except ValueError as error:
        yield str(error)
        return
    given = document.get("tags", {}) if isinstance(document, dict) else None
    if not isinstance(given, dict):
        yield "must be an object with a mapping `tags`"
        return
    defaults = {str(key): str(text) for key, text in given.items()}
    yield from _tag_problems(defaults)
    spellings = {key.lower(): key for key in tags}
    for key in defaults:
        spelling = spellings.get(key.lower(), key)
        if spelling != key:
            yield (
                f"key {key!r}: is the same as {spelling!r} of tags, since IAM ignores case; "
                "rename it"
            )
    together = len(defaults.keys() | tags.keys())
    if together > MAX_TAGS:
        yield f"{together} tags together with those of tags; at most {MAX_TAGS}"


@dataclass(frozen=True)
class _Rule:
    """A rule over several arguments: skipped where one of them is missing or wrong by itself."""

    fields: frozenset[str]
    problem: Callable[[Any], str | None]


def _rule(*fields: str) -> Callable[[Callable[[Any], str | None]], _Rule]:
    return lambda problem: _Rule(frozenset(fields), problem)


@_rule("min_capacity", "max_capacity")
def _bounds(args: ScalingArgs) -> str | None:
    if args.min_capacity <= args.max_capacity:
        return None
    return (
        f"minCapacity = {args.min_capacity}: exceeds maxCapacity = {args.max_capacity}; "
        "lower minCapacity or raise maxCapacity"
    )


@_rule("scaling_preset", "scaling_plan")
def _one_plan(args: ScalingArgs) -> str | None:
    if args.scaling_preset == "custom" or args.scaling_plan == ScalingRules():
        return None
    return (
        f"scalingPreset = {args.scaling_preset!r}: scalingPlan is set too and would be "
        "ignored; set scalingPreset to custom, or remove scalingPlan"
    )


@_rule("min_capacity", "max_capacity", "scaling_preset", "scaling_plan")
def _leaves_zero(args: ScalingArgs) -> str | None:
    if args.min_capacity > args.max_capacity or wakes_from_zero(args.plan, Unsettled()):
        return None
    return (
        "minCapacity = 0: no policy ever leaves zero, so that requests would wait until they "
        "expire; add a step policy on HasBacklogWithoutCapacity to scalingPlan, or set "
        "minCapacity to 1"
    )


@_rule("setup", "setup_s")
def _one_setup(args: AsyncEndpointArgs) -> str | None:
    if args.setup_s is None or args.setup == Setup():
        return None
    return (
        f"setupS = {args.setup_s}: setup gives the same time in parts; remove setupS, which "
        "is their sum as one number, or setup"
    )


@_rule(
    *("min_capacity", "max_capacity", "scaling_preset", "scaling_plan", "request_ttl_s"),
    *("setup", "setup_s"),
)
def _outlives_cold_start(args: AsyncEndpointArgs) -> str | None:
    if args.min_capacity > args.max_capacity or args.min_capacity > 0:
        return None
    detected_s = detection_s(args.plan, Unsettled())
    if detected_s is None or args.request_ttl_s >= detected_s + args.usual_setup_s:
        return None
    return (
        f"requestTtlS = {args.request_ttl_s}: a request to an idle endpoint expires before any "
        f"instance exists (detection up to {detected_s:.0f} s + setup "
        f"{args.usual_setup_s:.0f} s); set it to "
        f"{math.ceil(detected_s + args.usual_setup_s)} or more"
    )


@_rule("handler")
def _handler_exists(args: AsyncEndpointArgs) -> str | None:
    if (args.handler / "inference.py").is_file():
        return None
    return (
        f"handler = {str(args.handler)!r}: holds no inference.py; "
        "name the folder with the code that the container runs"
    )


@_rule("security", "weights")
def _isolated_weights(args: AsyncEndpointArgs) -> str | None:
    if not args.security.network_isolation or not re.match(HUB_ID, args.weights):
        return None
    return (
        "security.networkIsolation = True: the container could not download the weights "
        f"{args.weights!r}; put them on S3 and name that prefix, or turn the isolation off"
    )


@_rule("security", "region")
def _key_of_region(args: AsyncEndpointArgs) -> str | None:
    security, region = args.security, args.region
    named = {
        "encryption": [security.given_key_arn] if security.given_key_arn else [],
        "otherKeyArns": list(security.other_key_arns),
    }
    for field, arns in named.items():
        for arn in arns:
            if region_of(arn) != region:
                return (
                    f"security.{field} = {arn!r}: is a key of another region than {region}; "
                    "S3, SNS and SageMaker use keys of the endpoint's region only"
                )
    return None


@_rule("image_uri", "region")
def _image_of_region(args: AsyncEndpointArgs) -> str | None:
    parts = re.match(r"\d+\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.", args.known_image_uri or "")
    if parts is None or parts[1] == args.region:
        return None
    return (
        f"imageUri = {args.known_image_uri!r}: is in {parts[1]}, the endpoint in {args.region}; "
        "SageMaker pulls an image from the endpoint's region only: copy it there"
    )


@_rule("image_uri", "image_tag", "instance_type")
def _every_gpu_serves(args: AsyncEndpointArgs) -> str | None:
    """TorchServe gives a copy of the model its GPU as a property, which model_fn does not receive:
    every copy would load onto the first."""
    count, uri = gpu_count(args.instance_type), args.image_uri
    other_server = uri is not None and f"/{TORCHSERVE_REPOSITORY}:" not in str(args.known_image_uri)
    if count == 1 or args.image.serving == "ray" or other_server:
        return None
    return (
        f"instanceType = {args.instance_type!r}: has {count} GPUs, of which an image with "
        f"TorchServe uses one; use imageTag {DEFAULT_TAG}, or a type with one GPU"
    )


@_rule("subscriptions", "observability")
def _subscribed_topics_exist(args: AsyncEndpointArgs) -> str | None:
    operations = any(each.topic == "operations" for each in args.subscriptions)
    if args.observability.enabled or not operations:
        return None
    return (
        "subscriptions: one is of topic operations, to which nothing publishes while "
        "observability.enabled is false; enable it, or remove the subscription"
    )


@_rule("updates", "min_capacity")
def _capacity_carries_steps(args: AsyncEndpointArgs) -> str | None:
    """With one instance only all at once fits (docs/aws-facts.md#guardrails); an update starts from
    InitialInstanceCount (TF #48990)."""
    updates, fleet = args.updates, max(1, args.min_capacity)
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
def _provider_outlasts(args: AsyncEndpointArgs) -> str | None:
    updates = args.updates
    waits_s = updates.steps * updates.wait_s + updates.termination_wait_s
    if waits_s + args.first_setup_s <= PROVIDER_WAIT_S or not waits_s:
        return None
    return (
        f"updates.waitS = {updates.wait_s}: an update would take {waits_s} s of waiting and "
        f"setup {args.first_setup_s:.0f} s, and the provider gives up after "
        f"{PROVIDER_WAIT_S} s; "
        "shorten waitS or terminationWaitS, or take larger steps"
    )


@_rule("provider_config", "tags")
def _provider_tags(args: AsyncEndpointArgs) -> str | None:
    config = args.provider_config or {}
    if "defaultTags" not in config:
        return None
    problems = list(_provider_tag_problems(config["defaultTags"], args.tags))
    return f"providerConfig.defaultTags: {'; '.join(problems)}" if problems else None


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
    _subscribed_topics_exist,
    _capacity_carries_steps,
    _provider_outlasts,
    _provider_tags,
)
