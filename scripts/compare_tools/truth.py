"""What the simulator really sent, as percentiles over the same answers that a tool measured."""

import math
from itertools import pairwise


def percentile(values, share):
    """Returns the smallest value that at least this share of the values do not exceed."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summary(values):
    return {"p50": percentile(values, 0.50), "p99": percentile(values, 0.99), "n": len(values)}


def gaps_ms(answer):
    return [(late - early) / 1e3 for early, late in pairwise(answer["sent_us"])]


def peak(answers):
    """Returns the largest number of answers that were being sent at one instant."""
    steps = []
    for answer in answers:
        begin = answer["arrived_us"]
        steps += [(begin, 1), (begin + (answer["ended_us"] or max(answer["sent_us"], default=0)), -1)]
    most = now = 0
    for _, step in sorted(steps):
        now += step
        most = max(most, now)
    return most


def truth(answers):
    """Returns the true figures in milliseconds. Times begin when the simulator had read the request.

    `ttft` ends with the first token, `e2e` with the last token, `e2e_end` with the end of the stream, `itl` has all gaps between tokens,
    `tpot` the mean gap of each answer, and `late` how late tokens were sent: the simulator's own error.
    """
    with_tokens = [answer for answer in answers if answer["sent_us"]]
    whole = [answer for answer in answers if answer["ending"] == "whole"]
    late = [(sent - due) / 1e3 for answer in answers for sent, due in zip(answer["sent_us"], answer["due_us"])]
    means = [sum(gaps) / len(gaps) for gaps in map(gaps_ms, whole) if gaps]
    return {
        "answers": len(answers),
        "whole": len(whole),
        "defective": sum(answer["ending"] in ("error", "cut", "abort") for answer in answers),
        "left": sum(answer["ending"] is None for answer in answers),
        "peak": peak(answers),
        "ttft": summary([answer["sent_us"][0] / 1e3 for answer in with_tokens]),
        "opened": summary([answer["opened_us"] / 1e3 for answer in answers if answer["opened_us"] is not None]),
        "itl": summary([gap for answer in with_tokens for gap in gaps_ms(answer)]),
        "tpot": summary(means),
        "e2e": summary([answer["sent_us"][-1] / 1e3 for answer in whole]),
        "e2e_end": summary([answer["ended_us"] / 1e3 for answer in whole]),
        "late": summary(late),
    }
