"""What each recogniser finds, and what looks much like it and is not."""

import pytest

from deploy_targets.filter_policy import PersonalData, Secret
from deploy_targets.guard.filtering import filter_text
from tests.guard.filter_rules import AWS_KEY, BEGIN, END, rules, streamed

KEY = BEGIN.format("RSA ") + "\nMIIEpAIBAAKCAQEA7\n" + END.format("RSA ")
JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0."
    "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
)
FOUND = [
    ("private_key", f"a {KEY} b", "a [private_key] b"),
    ("private_key", BEGIN.format("OPENSSH ") + "\nb3Blbn", "[private_key]"),
    ("private_key", (BEGIN + "\nVersion: 1\n" + END).format("PGP ", "PGP ").replace("KEY-", "KEY BLOCK-") + "!", "[private_key]!"),
    ("aws_key", f"id={AWS_KEY};", "id=[aws_key];"),
    ("github_token", "ghp_" + "a1B2c3" * 6, "[github_token]"),
    ("github_token", "github_pat_" + "a" * 22 + "_" + "b" * 59, "[github_token]"),
    ("openai_key", "sk-proj-" + "aB3_-" * 8, "[openai_key]"),
    ("slack_token", "xoxb-123456789012-abcDEF", "[slack_token]"),
    ("google_key", "AIza" + "SyA-1234_" * 3 + "abcdefgh", "[google_key]"),
    ("hugging_face_token", "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH", "[hugging_face_token]"),
    ("jwt", f"Bearer {JWT}.", "Bearer [jwt]."),
    ("high_entropy", "key wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "key [high_entropy]"),
    ("email", "to bob.o-neil+x@mail.example.co.uk, please", "to [email], please"),
    ("email", "(a@b.de)", "([email])"),
    ("phone", "call +49 (0)30 123456-78 now", "call [phone] now"),
    ("phone", "call (212) 555-0100 or 212-555-0199", "call [phone] or [phone]"),
    ("phone", "+14155550100", "[phone]"),
    ("iban", "to DE89 3704 0044 0532 0130 00 AND more words here", "to [iban] AND more words here"),
    ("iban", "gb82west12345698765432.", "[iban]."),
    ("card", "4111 1111 1111 1111 12/27", "[card] 12/27"),
    ("card", "5500-0055-5555-5559 and 378282246310005", "[card] and [card]"),
    ("us_ssn", "ssn 123-45-6789.", "ssn [us_ssn]."),
    ("ip_address", "from 192.168.10.254:8080, fe80::1 and 2001:db8:0:0:0:0:0:1", "from 192.168.10.254:8080, [ip_address] and [ip_address]"),
    ("ip_address", "10.0.0.1.", "[ip_address]."),
]  # fmt: skip
NOT_FOUND = [
    ("private_key", "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----"),
    ("aws_key", f"{AWS_KEY}X and {AWS_KEY[:-1]}1"),
    ("github_token", "ghp_short and xghp_" + "a" * 36),
    ("openai_key", "task-force-of-the-long-named-kind and sk-learn"),
    ("slack_token", "xoxo-hugs-and-kisses"),
    ("google_key", "AIzaShort"),
    ("hugging_face_token", "hf_transfer hf_hub_download"),
    ("jwt", "eyJub3QiOiJqd3QifQ.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc"),
    ("high_entropy", "d41d8cd98f00b204e9800998ecf8427e 123e4567-e89b-12d3-a456-426614174000"),
    ("high_entropy", "TheLongestMethodNameThatAnybodyHasEverWritten2"),
    ("email", "@handle, a@b, user@localhost, x @ y.com"),
    ("phone", "2026-11-26 12:30, 1234567, 1+2 34, v1.2.3, +12 34"),
    ("iban", "DE89 3704 0044 0532 0130 01, AB12 and more text follows"),
    ("card", "4111 1111 1111 1112, 1234567890123, 41111111111111111111111"),
    ("us_ssn", "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000 1123-45-6789"),
    ("ip_address", "256.1.1.1 1.2.3 1.2.3.4.5 std::vector :: a:b:c 12:30:45"),
]  # fmt: skip


def a_rule(kind: str):
    is_secret = kind in set(Secret)
    return rules({"kind": "secrets" if is_secret else "personal_data", "types": [kind]})


@pytest.mark.parametrize(("kind", "text", "out"), FOUND)
def test_it_is_found_and_nothing_around_it(kind: str, text: str, out: str) -> None:
    assert filter_text(a_rule(kind), text).text == out
    assert streamed(a_rule(kind), list(text))[0] == out


@pytest.mark.parametrize(("kind", "text"), NOT_FOUND)
def test_what_only_looks_like_it_is_left_alone(kind: str, text: str) -> None:
    assert filter_text(a_rule(kind), text).text == text


def test_every_kind_has_an_example_and_a_near_miss() -> None:
    kinds = {*Secret, *PersonalData}
    assert {kind for kind, *_ in FOUND} == {kind for kind, _ in NOT_FOUND} == kinds


def test_hidden_characters_do_not_hide_a_secret() -> None:
    text = "AKIA\u200bIOSFODNN7\u2060EXAMPLE"
    assert filter_text(a_rule("aws_key"), text).text == "[aws_key]"
