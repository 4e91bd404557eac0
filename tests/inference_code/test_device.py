"""What an error of CUDA means, and when the process must end; a stand-in for torch tells."""

import importlib
import sys
from types import SimpleNamespace

import pytest

GIB = 2**30


@pytest.fixture
def device():
    return importlib.import_module("device")


@pytest.fixture
def cuda(monkeypatch):
    """A torch with a GPU whose operations raise `cuda.error`, if any; `cuda.exits` are recorded."""
    found = SimpleNamespace(error=None, exits=[])

    def ones(*_size, device):
        if found.error:
            raise found.error
        return SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: 2.0))

    gpu = SimpleNamespace(is_available=lambda: True, empty_cache=lambda: None)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=gpu, ones=ones))
    monkeypatch.setattr("os._exit", found.exits.append)
    return found


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 20.00 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "DefaultCPUAllocator: can't allocate memory",
    ],
)
def test_every_way_to_say_memory_is_memory(device, message):
    assert device.is_out_of_memory(RuntimeError(message))


def test_another_error_is_not_memory(device):
    assert not device.is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))


def failed_request(monkeypatch, error: Exception):
    handler = importlib.import_module("inference")

    def broken(_model, _request):
        raise error

    monkeypatch.setitem(sys.modules, "pipeline", SimpleNamespace(generate=broken))
    request = importlib.import_module("request").ImageRequest(prompt="x")
    return handler.predict_fn(request, None)


def test_a_cuda_fault_that_stays_ends_the_process(monkeypatch, cuda, capsys):
    cuda.error = RuntimeError("CUDA error: an illegal memory access was encountered")

    failed_request(monkeypatch, cuda.error)

    assert cuda.exits == [1]
    assert "CUDA no longer works" in capsys.readouterr().err


def test_an_error_that_leaves_cuda_working_does_not(monkeypatch, cuda, capsys):
    answer = failed_request(monkeypatch, RuntimeError("shapes do not match"))

    assert (answer.status, cuda.exits) == (500, [])
    capsys.readouterr()


def test_full_memory_is_no_fault(monkeypatch, cuda, capsys):
    cuda.error = RuntimeError("CUDA out of memory")

    answer = failed_request(monkeypatch, RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))

    assert (answer.status, cuda.exits) == (507, [])
    capsys.readouterr()


def test_a_t4_takes_the_base_up_to_the_default_limit_and_not_the_refiner_beside_it(device):
    """SDXL in fp16: 6.6 GiB, 10.8 with the refiner. A T4 has 14.6 GiB, an A10G 22."""

    def fits(memory_gib: float, weights_gib: float) -> int:
        return device.pixels_that_fit(
            int(memory_gib * GIB), int(weights_gib * GIB), fp32_decode=True
        )

    assert fits(14.6, 6.6) > 1024**2
    assert fits(14.6, 10.8) < 1024**2
    assert fits(22, 10.8) > 1536**2
