"""Secrets in messages: sealed with the first key, opened with any."""

import pytest

from shared.sealing import SealError, new_seal_key, seal, unseal

OLD, NEW = new_seal_key(), new_seal_key()


def test_what_was_sealed_is_opened() -> None:
    """One secret or two, as a list or as the settings write them."""
    assert unseal(seal("whsec_a", OLD), OLD) == ("whsec_a",)
    assert unseal(seal("whsec_a, whsec_b", OLD), OLD) == ("whsec_a", "whsec_b")
    assert unseal(seal(["whsec_a", "whsec_b"], OLD), OLD) == ("whsec_a", "whsec_b")


def test_keys_are_rotated_without_losing_what_is_under_way() -> None:
    """The first key seals; every key opens."""
    assert unseal(seal("whsec_a", OLD), f"{NEW},{OLD}") == ("whsec_a",)
    assert unseal(seal("whsec_a", f"{NEW}, {OLD}"), NEW) == ("whsec_a",)
    with pytest.raises(SealError):
        unseal(seal("whsec_a", f"{NEW},{OLD}"), OLD)


def test_a_token_hides_its_secret() -> None:
    """Nothing of it can be read, and two tokens of one secret differ."""
    token = seal("whsec_visible", OLD)
    assert "visible" not in token and token != seal("whsec_visible", OLD)


@pytest.mark.parametrize("key", ["", " , ", "change-me", "AAAA", "é"])
def test_a_missing_or_wrong_key_is_named(key: str) -> None:
    """The operator reads which setting to look at."""
    with pytest.raises(SealError, match="MESHWORK_SEAL_KEY"):
        seal("whsec_a", key)


@pytest.mark.parametrize(
    "token", ["", "gAAAA", "é", seal("x", NEW), seal("x", OLD)[:-4]], ids=["nothing", "a beginning", "no token", "foreign", "damaged"]
)
def test_what_cannot_be_opened_is_told_without_quoting_it(token: str) -> None:
    """A foreign or damaged token raises one error."""
    with pytest.raises(SealError) as caught:
        unseal(token, OLD)
    assert not token or token not in str(caught.value)
