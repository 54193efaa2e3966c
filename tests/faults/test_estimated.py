"""An estimate with processes of its own, for real."""

from estimated import estimated_smoke_study


def test_a_smoke_study_is_estimated_and_leaves_only_its_documents(output, tiny):
    estimated_smoke_study(output, tiny)
