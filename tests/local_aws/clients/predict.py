"""Uses the SageMaker Python SDK as its users do; run by a Python that has it, prints JSON.

With the suite's Python it could not be: its packages pin what this project pins otherwise.
"""

import json
import os
import sys

import boto3
from sagemaker.async_inference import WaiterConfig
from sagemaker.exceptions import AsyncInferenceModelError, ObjectNotExistedError
from sagemaker.predictor import Predictor
from sagemaker.predictor_async import AsyncPredictor
from sagemaker.session import Session
from sagemaker_core.resources import Endpoint

ENDPOINT = sys.argv[1]
PATIENTLY = WaiterConfig(max_attempts=20, delay=1)

session = Session(boto_session=boto3.Session(), default_bucket=f"{ENDPOINT}-bucket")
predictor = AsyncPredictor(Predictor(ENDPOINT, session), name="by-the-sdk")

waited = predictor.predict(data=b"wait for me", waiter_config=PATIENTLY)
pending = predictor.predict_async(data=b"come back later")
later = pending.get_result(PATIENTLY)

poisoned = predictor.predict_async(data=b"poison")
try:
    poisoned.get_result(PATIENTLY)
    failure = None
except AsyncInferenceModelError as error:
    failure = str(error)

slow = predictor.predict_async(data=b"slow")
try:
    slow.get_result()
    unfinished = None
except ObjectNotExistedError as error:
    unfinished = type(error).__name__

# The next major version's resources, which have no predictor.
endpoint = Endpoint.get(ENDPOINT, session=boto3.Session())
resource = endpoint.invoke_async(
    input_location=f"s3://{ENDPOINT}-bucket/in/request", inference_id="by-resource"
)
print(
    json.dumps(
        {
            "waited": waited.decode(),
            "later": later.decode(),
            "output_path": pending.output_path,
            "failure": failure,
            "unfinished": unfinished,
            "resource": [resource.inference_id, resource.output_location],
            "status": endpoint.endpoint_status,
            "all": [each.endpoint_name for each in Endpoint.get_all()],
        }
    ),
    flush=True,
)
# The SDK leaves a thread behind that polls for the other object until its attempts run out.
os._exit(0)
