//! The whole table, then random histories against a small model.

use proptest::prelude::*;

use super::*;
use Effect as E;
use Input as I;
use SessionState as S;

const T1: TurnNumber = TurnNumber(1);
const T2: TurnNumber = TurnNumber(2);

fn at(state: S, active: Option<TurnNumber>, queue: &[TurnNumber]) -> Session {
    Session { state, active, queue: queue.iter().copied().collect() }
}

#[test]
fn rows() {
    let wait = S::Waiting(WaitReason::Approval);
    type Row = (&'static str, Session, Vec<I>, Session, Vec<E>);
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        ("a first turn runs", Session::new(Some(T1)), vec![I::Start, I::Ready], at(S::Running, Some(T1), &[]),
            vec![E::StartSandbox, E::RecordTurn(T1, TurnState::Running), E::Prompt(T1)]),
        ("without a turn it is idle", Session::new(None), vec![I::Start, I::Ready], at(S::Idle, None, &[]), vec![E::StartSandbox]),
        ("a message to an idle one runs at once", at(S::Idle, None, &[]), vec![I::Message(T2)], at(S::Running, Some(T2), &[]),
            vec![E::RecordTurn(T2, TurnState::Running), E::Prompt(T2)]),
        ("a message to a running one waits", at(S::Running, Some(T1), &[]), vec![I::Message(T2)], at(S::Running, Some(T1), &[T2]), vec![]),
        ("the next turn follows", at(S::Running, Some(T1), &[T2]), vec![I::TurnStopped(TurnStop::EndTurn)], at(S::Running, Some(T2), &[]),
            vec![E::RecordTurn(T1, TurnState::Completed), E::RecordTurn(T2, TurnState::Running), E::Prompt(T2)]),
        ("an interrupt only tells the agent", at(S::Running, Some(T1), &[]), vec![I::Interrupt], at(S::Running, Some(T1), &[]), vec![E::CancelPrompt(T1)]),
        ("an interrupted turn is cancelled when the agent says so", at(S::Running, Some(T1), &[]), vec![I::Interrupt, I::TurnStopped(TurnStop::Cancelled)],
            at(S::Idle, None, &[]), vec![E::CancelPrompt(T1), E::RecordTurn(T1, TurnState::Cancelled)]),
        ("interrupting an idle one is nothing", at(S::Idle, None, &[]), vec![I::Interrupt], at(S::Idle, None, &[]), vec![]),
        ("waiting and back", at(S::Running, Some(T1), &[]), vec![I::Wait(WaitReason::Approval), I::Resume], at(S::Running, Some(T1), &[]), vec![]),
        ("a waiting turn may stop", at(wait, Some(T1), &[]), vec![I::TurnStopped(TurnStop::Refusal)], at(S::Idle, None, &[]), vec![E::RecordTurn(T1, TurnState::Failed)]),
        ("a lost turn is given again", at(S::Running, Some(T1), &[T2]), vec![I::Lost, I::Start, I::Ready], at(S::Running, Some(T1), &[T2]),
            vec![E::RecordTurn(T1, TurnState::Interrupted), E::StartSandbox, E::RecordTurn(T1, TurnState::Running), E::Prompt(T1)]),
        ("an idle one that is lost has nothing to give", at(S::Idle, None, &[]), vec![I::Lost, I::Start, I::Ready], at(S::Idle, None, &[]), vec![E::StartSandbox]),
        ("an idle one ends", at(S::Idle, None, &[]), vec![I::End, I::Released], at(S::Ended, None, &[]), vec![E::EndSandbox]),
        ("a running one ends with its turns", at(S::Running, Some(T1), &[T2]), vec![I::End, I::Released], at(S::Ended, None, &[]),
            vec![E::RecordTurn(T1, TurnState::Cancelled), E::RecordTurn(T2, TurnState::Cancelled), E::EndSandbox]),
        ("ending twice ends the sandbox twice, which is idempotent", at(S::Ending, None, &[]), vec![I::End], at(S::Ending, None, &[]), vec![E::EndSandbox]),
        ("a created one ends at once", Session::new(Some(T1)), vec![I::End], at(S::Ended, None, &[]), vec![E::RecordTurn(T1, TurnState::Cancelled)]),
        ("an interrupted one ends", at(S::Interrupted, Some(T1), &[]), vec![I::End, I::Lost], at(S::Ended, None, &[]),
            vec![E::RecordTurn(T1, TurnState::Cancelled), E::EndSandbox]),
        ("a start that fails", at(S::Starting, None, &[T1]), vec![I::Fail], at(S::Failed, None, &[]),
            vec![E::RecordTurn(T1, TurnState::Cancelled), E::EndSandbox]),
        ("a fault while running", at(S::Running, Some(T1), &[]), vec![I::Fail, I::Released], at(S::Failed, None, &[]),
            vec![E::RecordTurn(T1, TurnState::Failed), E::EndSandbox]),
        ("an interrupt before the agent is there withdraws what waits", at(S::Starting, None, &[T1]), vec![I::Interrupt, I::Ready], at(S::Idle, None, &[]),
            vec![E::RecordTurn(T1, TurnState::Cancelled)]),
        ("an idle one sleeps, and a message wakes it", at(S::Idle, None, &[]), vec![I::Sleep, I::Released, I::Message(T2), I::Ready],
            at(S::Running, Some(T2), &[]), vec![E::EndSandbox, E::StartSandbox, E::RecordTurn(T2, TurnState::Running), E::Prompt(T2)]),
        ("one that was lost while it had nothing to do sleeps", at(S::Interrupted, None, &[]), vec![I::Sleep], at(S::Asleep, None, &[]), vec![E::EndSandbox]),
        ("one that sleeps ends", at(S::Asleep, None, &[]), vec![I::End, I::Released], at(S::Ended, None, &[]), vec![E::EndSandbox]),
    ];
    for (name, start, inputs, expected, effects) in rows {
        let mut session = start;
        let mut seen = Vec::new();
        for input in inputs {
            let (next, did) = session.step(input).unwrap_or_else(|denied| panic!("{name}: {denied}"));
            session = next;
            seen.extend(did);
        }
        assert_eq!((session, seen), (expected, effects), "{name}");
    }
}

/// Every state against every input: which are allowed is written down here once more, by hand.
#[test]
fn the_whole_table_of_what_is_allowed() {
    let inputs = [
        I::Start,
        I::Ready,
        I::Message(T2),
        I::TurnStopped(TurnStop::EndTurn),
        I::Wait(WaitReason::Budget),
        I::Resume,
        I::Interrupt,
        I::Sleep,
        I::End,
        I::Lost,
        I::Fail,
        I::Released,
    ];
    #[rustfmt::skip]
    let table = [
        //                 start ready msg   stop  wait  resum inter sleep end   lost  fail  released
        (S::Created,     "  x     .     x     .     .     .     .     .     x     .     x     . "),
        (S::Starting,    "  .     x     x     .     .     .     x     .     x     x     x     . "),
        (S::Running,     "  .     .     x     x     x     .     x     .     x     x     x     . "),
        (S::Idle,        "  .     .     x     .     .     .     x     x     x     x     x     . "),
        (S::Asleep,      "  .     .     x     .     .     .     x     x     x     x     x     x "),
        (S::Waiting(WaitReason::Approval), ".  .     x     x     .     x     x     .     x     x     x     . "),
        (S::Interrupted, "  x     .     x     .     .     .     x     x     x     x     x     . "),
        (S::Ending,      "  .     .     .     .     .     .     .     .     x     x     .     x "),
        (S::Ended,       "  .     .     .     .     .     .     .     .     x     x     .     x "),
        (S::Failed,      "  .     .     .     .     .     .     .     .     x     x     .     x "),
    ];
    for (state, row) in table {
        for (input, mark) in inputs.into_iter().zip(row.split_whitespace()) {
            let active = matches!(state, S::Running | S::Waiting(_)).then_some(T1);
            if input == I::Sleep {
                let busy = at(state, Some(T1), &[]).step(input).is_ok()
                    || at(state, None, &[T1]).step(input).is_ok();
                assert!(!busy || state == S::Asleep, "{state:?}: one that has something to do never sleeps");
            }
            let outcome = at(state, active, &[]).step(input);
            assert_eq!(outcome.is_ok(), mark == "x", "{state:?} + {input:?}: {outcome:?}");
            if let Err(denied) = outcome {
                assert_eq!((denied.state, denied.asked), (state, input));
            }
        }
    }
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(I::Start),
        Just(I::Ready),
        (1..9u32).prop_map(|n| I::Message(TurnNumber(n))),
        prop_oneof![Just(TurnStop::EndTurn), Just(TurnStop::Cancelled), Just(TurnStop::Error)]
            .prop_map(I::TurnStopped),
        Just(I::Wait(WaitReason::Approval)),
        Just(I::Resume),
        Just(I::Interrupt),
        Just(I::Sleep),
        Just(I::End),
        Just(I::Lost),
        Just(I::Fail),
        Just(I::Released),
    ]
}

proptest! {
    /// Whatever happens: a turn is accepted once, given in order, never given after it is over, and over exactly once
    /// when its session is over.
    #[test]
    fn turns_are_never_lost_doubled_or_reordered(inputs in proptest::collection::vec(any_input(), 0..60)) {
        let mut session = Session::new(None);
        let mut accepted = 0;
        let mut over: Vec<TurnNumber> = Vec::new();
        let mut given: Vec<TurnNumber> = Vec::new();
        for input in inputs {
            // The engine numbers turns, so the model does too.
            let input = if let I::Message(_) = input { I::Message(TurnNumber(accepted + 1)) } else { input };
            let before = session.clone();
            match session.step(input) {
                Err(denied) => {
                    prop_assert_eq!(denied.state, before.state);
                    session = before;
                    continue;
                }
                Ok((next, effects)) => {
                    if let I::Message(_) = input {
                        accepted += 1;
                    }
                    for effect in effects {
                        match effect {
                            E::Prompt(turn) => {
                                prop_assert!(!over.contains(&turn), "{turn} given after it was over");
                                prop_assert!(given.last().is_none_or(|last| *last <= turn), "{turn} given out of order");
                                given.push(turn);
                            }
                            E::RecordTurn(turn, state) if state.is_over() => {
                                prop_assert!(!over.contains(&turn), "{turn} over twice");
                                over.push(turn);
                            }
                            E::CancelPrompt(turn) => prop_assert_eq!(next.active, Some(turn)),
                            E::RecordTurn(..) | E::StartSandbox | E::EndSandbox => {}
                        }
                    }
                    session = next;
                }
            }
            let known = over.len() + session.queue.len() + usize::from(session.active.is_some());
            prop_assert_eq!(known, accepted as usize, "every accepted turn is over, active or queued");
            if session.state.is_over() || session.state == S::Ending {
                prop_assert_eq!(over.len(), accepted as usize);
            }
            if matches!(session.state, S::Running | S::Waiting(_)) {
                prop_assert!(session.active.is_some());
            }
            if matches!(session.state, S::Idle | S::Asleep) {
                prop_assert!(session.active.is_none() && session.queue.is_empty());
            }
        }
    }
}

#[test]
fn names_go_both_ways() {
    for state in SessionState::ALL {
        assert_eq!(SessionState::parse(state.as_str()), Some(state));
    }
    assert_eq!(SessionState::parse("nothing"), None);
}

#[test]
fn a_denial_reads_as_a_sentence() {
    let denied = at(S::Ended, None, &[]).step(I::Message(T1)).expect_err("over");
    assert_eq!(denied.to_string(), "cannot take a message while ended");
}
