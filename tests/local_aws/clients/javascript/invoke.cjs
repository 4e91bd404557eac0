// Sends a request to an asynchronous endpoint and waits for its answer, as a service in JavaScript
// does: the SDK's clients take address and credentials from the environment. Prints JSON.

const { GetObjectCommand, S3Client, waitUntilObjectExists } = require("@aws-sdk/client-s3");
const {
  InvokeEndpointAsyncCommand,
  SageMakerRuntimeClient,
} = require("@aws-sdk/client-sagemaker-runtime");

const WAITED = { maxWaitTime: 30, minDelay: 1, maxDelay: 1 };

async function answer(s3, location) {
  const { hostname: Bucket, pathname } = new URL(location);
  const Key = pathname.slice(1);
  await waitUntilObjectExists({ client: s3, ...WAITED }, { Bucket, Key });
  const { Body } = await s3.send(new GetObjectCommand({ Bucket, Key }));
  return Body.transformToString();
}

async function main(EndpointName) {
  const runtime = new SageMakerRuntimeClient();
  const s3 = new S3Client();
  const send = (request) => runtime.send(new InvokeEndpointAsyncCommand(request));

  const accepted = await send({
    EndpointName,
    InputLocation: `s3://${EndpointName}-bucket/in/request`,
    InferenceId: "from-javascript",
    ContentType: "text/plain",
  });
  const poisoned = await send({ EndpointName, InputLocation: `s3://${EndpointName}-bucket/in/poison` });
  let refused = null;
  try {
    await send({ EndpointName: "nothing", InputLocation: `s3://${EndpointName}-bucket/in/request` });
  } catch (error) {
    refused = { name: error.name, status: error.$metadata.httpStatusCode, message: error.message };
  }
  console.log(
    JSON.stringify({
      status: accepted.$metadata.httpStatusCode,
      inferenceId: accepted.InferenceId,
      answer: await answer(s3, accepted.OutputLocation),
      failure: await answer(s3, poisoned.FailureLocation),
      refused,
    }),
  );
}

main(process.argv[2]);
