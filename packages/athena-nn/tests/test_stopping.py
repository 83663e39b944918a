"""Stop tokens and stop strings."""

from __future__ import annotations

import pytest

from athena_nn._stopping import Stopping, check_stop_strings, check_stop_tokens


def letters(tokens: list[int]) -> str:
    return "".join("abcdefgh"[token] for token in tokens)


def test_a_row_ends_with_the_first_stop_token_and_stays_ended():
    stopping = Stopping(2, stop_tokens=(3, 5))
    assert [stopping.update(tokens) for tokens in ([1, 1], [1, 5], [2, 1], [3, 5])] == [
        False,
        True,
        False,
        True,
    ]
    assert stopping.done == [True, True]


def test_a_row_ends_with_the_token_that_completes_a_stop_string():
    stopping = Stopping(2, stop_strings=("bcd", "h"), decode=letters)
    done = []
    for tokens in zip([0, 1, 2, 1, 2, 3], [1, 2, 0, 7, 0, 0], strict=True):
        stopping.update(tokens)
        done.append(list(stopping.done))
    assert done == [[False, False]] * 3 + [[False, True]] * 2 + [[True, True]]


def test_a_stop_string_within_a_tokens_text_ends_the_row():
    words = ["x", " and so on", "! Then"]
    stopping = Stopping(1, stop_strings=("on!",), decode=lambda tokens: "".join(words[t] for t in tokens))
    assert [stopping.update([token]) for token in (0, 1, 2)] == [False, False, True]


def test_decode_is_given_all_new_tokens_of_a_row_and_no_others():
    """The text of the last few tokens may differ from the end of the text of all: spaces, split bytes."""
    given: list[list[int]] = []

    def decode(tokens: list[int]) -> str:
        given.append(list(tokens))
        return bytes(tokens).decode(errors="replace")

    stopping = Stopping(2, stop_tokens=(0,), stop_strings=("é",), decode=decode)
    first, second = "é".encode()
    for tokens in ((65, 0), (first, 66), (second, 66)):
        stopping.update(tokens)
    assert stopping.done == [True, True]
    assert given == [[65], [65, first], [65, first, second]]


def test_nothing_to_stop_at_is_false():
    assert not Stopping(3)
    assert Stopping(1, stop_tokens=[0])
    assert Stopping(1, stop_strings=["a"], decode=letters)


@pytest.mark.parametrize("tokens", [2, [2.0], ["2"], [True], None])
def test_stop_tokens_of_a_wrong_type_are_refused(tokens):
    with pytest.raises(TypeError, match="`stop_tokens` must be a collection of token ids"):
        check_stop_tokens(tokens, 10)


@pytest.mark.parametrize("token", [-1, 10])
def test_stop_tokens_outside_the_vocabulary_are_refused(token):
    with pytest.raises(ValueError, match=rf"`stop_tokens` must lie in \[0, 10\); got {token}"):
        check_stop_tokens({3, token}, 10)


def test_bad_stop_strings_are_refused():
    with pytest.raises(TypeError, match="`stop_strings` must be a collection of strings"):
        check_stop_strings("end", letters)
    with pytest.raises(TypeError, match="`stop_strings`"):
        check_stop_strings([b"end"], letters)
    with pytest.raises(ValueError, match="must not hold the empty string"):
        check_stop_strings(("end", ""), letters)
    with pytest.raises(ValueError, match="go together"):
        check_stop_strings(("end",), None)
    with pytest.raises(ValueError, match="go together"):
        check_stop_strings((), letters)
