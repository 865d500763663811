"""`gatepass check --live`: asks the store, mints each token, calls each upstream, and names the hop that fails.

What was not seen is not claimed: a model list that everybody may read proves no token.
"""

from gatepass.doctor.diagnosis import PROVE, Check, Outcome, Trial, diagnose

__all__ = ["PROVE", "Check", "Outcome", "Trial", "diagnose"]
