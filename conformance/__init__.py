"""The conformance suite: contract, implementations under test, oracle, clause tests, certification, reports."""

import os

# Libraries ask whether there is a GPU when they are imported. Answered in torch's own way, no process that this one
# forks could use CUDA, and every model is certified in a fork; this has the driver's management library answer.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

from conformance.certification.api import CertificationFailed, Certified, NotCertifiable, NotCertified, certify

__all__ = ["CertificationFailed", "Certified", "NotCertifiable", "NotCertified", "certify"]
