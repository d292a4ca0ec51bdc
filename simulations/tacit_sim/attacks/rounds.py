"""Attacks by a server that repeats, reorders or changes what a round is."""

from __future__ import annotations

from tacit.parcel import Parcel
from tacit.secagg.messages import encode
from tacit.wire import ADVERTISE, AGREE, SHARE, TRAIN, UNMASK, Ask, Invite, Letter, Refusal, Update
from tacit_client.masking import Standing
from tacit_sim.attacks.cohort import JOB, OWNED, PRIVATE, SEVEN, VICTIM, Cohort, gather_cohort, job
from tacit_sim.attacks.outcome import Outcome, join
from tacit_sim.attacks.partners import live_model
from tacit_sim.attacks.play import Play, open_round

__all__ = ["changed_job", "clear_after_secure", "out_of_order", "replay", "second_job"]


def replay() -> Outcome:
    """A finished round is opened again without the victim; and mask keys that an old round gave out are told again.

    Defence: `Seen.after`, a round is taken part in once; keys are signed for one round (`bindings.advert_text`).
    """
    cohort = gather_cohort()
    return join("replay", (_one_apart("replay", cohort, Play(cohort, open_round(cohort)).play_out()), _old_keys()))


def _one_apart(attack: str, cohort: Cohort, first: Play) -> Outcome:
    """The round of `first` once more, without the victim: the difference of the two sums is the victim's update."""
    truth = cohort.partners.updates.get(VICTIM)
    second = Play(cohort, first.round, honest=cohort.others).play_out()
    one, other = first.expose(cohort.honest), second.expose(cohort.others)
    first.refusals = second.refusals
    found = None if one is None or other is None else one - other
    if truth is not None:
        cohort.partners.updates[VICTIM] = truth
    return first.outcome(attack, found, how="the same round again without the victim")


def _old_keys() -> Outcome:
    cohort = gather_cohort()
    old = Play(cohort, open_round(cohort)).play_out(stages=3)
    survivors = (*OWNED[:1], VICTIM, 4, 5, *OWNED[1:])
    old.agree(dict.fromkeys(survivors, survivors), only=survivors)
    old.unmask()
    new = Play(cohort, open_round(cohort, number=2), hoard=old.hoard.next_round())
    new.advertise()
    new.share({VICTIM: new.roster({i: old.adverts[i] for i in (1, 2)})})
    new.mask()
    given = sum(old.adverts[i].mask_key in new.hoard.secrets for i in (1, 2))
    return new.outcome("replay", new.expose(), how=f"{given} mask keys that round 1 gave out told in round 2")


def out_of_order() -> Outcome:
    """Every message of a round in every state but its own; and a round opened again in its middle.

    Defence: a stage asks for the one state before it (`client._expect`, `masking.enter`), stage 0 for a later round.
    """
    cohort = gather_cohort()
    states, messages = _walk(cohort)
    taken = sum(
        not _refuses(cohort, state, message)
        for stage, state in enumerate(states)
        for number, message in enumerate(messages)
        if number != stage
    )
    most = len(states) * len(messages) - len(messages)
    pairs = Outcome("out-of-order", not taken, f"{most - taken} of {most} messages out of their stage refused")
    middle = Play(cohort, open_round(cohort, number=2)).play_out(stages=3)
    whole = Play(cohort, middle.round).play_out()
    restart = whole.outcome("out-of-order", None, how="opened anew in its middle")
    return join("out-of-order", (pairs, restart if whole.refusals else _one_apart("out-of-order", cohort, whole)))


def _walk(cohort: Cohort) -> tuple[list[Standing], list[tuple[str, Parcel]]]:
    """Where the victim stands before and after each stage of an honest round, and the messages that brought it on."""
    play, partners = Play(cohort, open_round(cohort)), cohort.partners
    name, context = cohort.members[VICTIM].name, play.round.context
    states, messages = [Standing()], [(ADVERTISE, Invite(JOB, play.round.encode()).pack())]
    play.advertise()
    states.append(partners.standings[name])
    messages.append((SHARE, Letter("server", encode(play.roster(), context=context)).pack()))
    play.share()
    states.append(partners.standings[name])
    body = encode(play.inbox(VICTIM), context=context)
    messages.append((TRAIN, Ask(JOB, "run", 1, 1, SEVEN, live_model(), body).pack()))
    play.mask()
    states.append(partners.standings[name])
    messages.append(
        (AGREE, Letter("server", encode(play.survivors(VICTIM, tuple(range(SEVEN))), context=context)).pack())
    )
    play.agree()
    states.append(partners.standings[name])
    messages.append((UNMASK, Letter("server", encode(play.quorum(VICTIM), context=context)).pack()))
    play.unmask()
    states.append(partners.standings[name])
    return states, messages


def _refuses(cohort: Cohort, standing: Standing, message: tuple[str, Parcel]) -> bool:
    cohort.partners.standings[cohort.members[VICTIM].name] = standing
    return isinstance(cohort.partners.tell(VICTIM, *message), Refusal)


def second_job() -> Outcome:
    """Messages of a finished round in a round of another job, whose partners and keys are the same.

    Defence: the job is part of the round (`masking.advertise`), which every message names and every key is signed for.
    """
    cohort = gather_cohort()
    states, messages = _walk(cohort)
    other = job(max_weight=10)
    new = open_round(cohort, job=other, number=2)
    crossed = [Invite(other, open_round(cohort, number=2).encode()), Invite(JOB, new.encode())]
    refused = [_refuses(cohort, states[-1], (ADVERTISE, invite.pack())) for invite in crossed]
    play = Play(cohort, new, job=other)
    for stage in range(1, 5):
        (play.advertise, play.share, play.mask, play.agree)[stage - 1]()
        before = cohort.partners.standings[cohort.members[VICTIM].name]
        refused.append(_refuses(cohort, before, messages[stage]))
        cohort.partners.standings[cohort.members[VICTIM].name] = before
    what = f"{sum(refused)} of {len(refused)} invitations and messages of another job's round refused"
    return Outcome("second-job", all(refused), what)


def changed_job() -> Outcome:
    """After stage 0 the victim is asked to train without noise, its peers to weigh next to nothing.

    Defence: the job of stage 2 must be that of stage 0 (`masking.enter`); masks and signatures are bound to it
    (`bindings.pair_key`, `agreement_text`).
    """
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort, job=PRIVATE), job=PRIVATE)
    play.advertise()
    play.share()
    quiet = job(noise=1.0, max_weight=10**9)
    play.mask(jobs={i: JOB if i == VICTIM else quiet for i in cohort.honest})
    play.agree()
    play.unmask()
    how = "noise called off at stage 2, peers told a maximal weight of 1e9"
    return play.outcome("changed-job", play.expose(cohort.honest), how=how)


def clear_after_secure() -> Outcome:
    """After a secure round the victim is asked for its next update of the same run in clear.

    Defence: `masking.enter` answers no job in clear in a run that began with a secure one.
    """
    cohort = gather_cohort()
    play = Play(cohort, open_round(cohort)).play_out()
    cohort.partners.updates.pop(VICTIM)
    clear = job(secure=False)
    found = None
    for asked in (clear, JOB):
        ask = Ask(asked, "run", 2, 1, SEVEN, live_model())
        answer = cohort.partners.tell(VICTIM, TRAIN, ask.pack())
        if isinstance(answer, Refusal):
            play.note(VICTIM, answer)
        else:
            found = Update.unpack(answer).vector.update
            break
    return play.outcome("clear-after-secure", found, how="asked for round 2 in clear, and in secret with no shares")
