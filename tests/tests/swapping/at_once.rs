//! As in `interleavings`, all at once: what must be so in whatever order it happened.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use oxide_host::{Host, Payload, SwapOptions, bus::Event, error::KernelError};
use oxide_tests::{eventually, in_time, misbehave::options, misbehaving};
use proptest::prelude::*;
use serde_json::Value;

use super::{
    interleavings::{Fault, Files, Stage, Verb, config, orders, told, verbs},
    scene::mapped,
};

/// What is announced is a life that a module can have, or several of them, and tells how often it was swapped.
fn are_lives(told: &[String]) {
    let (mut there, mut running, mut generation) = (false, false, 0);
    for event in told {
        let so_far = || format!("{event} in {told:?}");
        match event.as_str() {
            "loaded" => {
                assert!(!there, "{}", so_far());
                (there, running, generation) = (true, false, 1);
            }
            "started" => {
                assert!(there && !running, "{}", so_far());
                running = true;
            }
            "stopped" => {
                assert!(there && running, "{}", so_far());
                running = false;
            }
            "unloaded" => {
                assert!(there, "{}", so_far());
                there = false;
            }
            swapped => {
                assert_eq!(swapped, format!("swapped {generation} {}", generation + 1), "{}", so_far());
                assert!(there, "{}", so_far());
                generation += 1;
            }
        }
    }
    assert!(!there, "{told:?}");
}

/// Does one verb among others; gives what an answered call said.
async fn among_others(
    host: Host,
    files: Arc<Files>,
    lives: Arc<Mutex<u64>>,
    verb: Verb,
) -> Option<(u64, i64)> {
    let tally = |answer: Payload| {
        let (life, _, count): (u64, Value, i64) = answer.to_json().unwrap();
        Some((life, count))
    };
    let failed: Result<(), KernelError> = match verb {
        Verb::Call => match host.invoke("m", "tally", "").await {
            Ok(answer) => return tally(answer),
            Err(KernelError::NotRunning { .. } | KernelError::UnknownModule(_)) => return None,
            Err(other) => panic!("{other:?}"),
        },
        Verb::CancelCall => {
            let Ok(module) = host.module("m") else { return None };
            let call = pin!(module.invoke("tally", ""));
            return match call.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(answer)) => tally(answer),
                _ => None,
            };
        }
        Verb::Publish => {
            let event = Event::Custom { module_id: "m".into(), kind: "news".into(), payload: 0.into() };
            let _ = host.bus().emit_event("me", event).await;
            Ok(())
        }
        // It keeps the configuration, and with it the number of the life.
        Verb::Swap => host.swap_with("m", &files.good, SwapOptions::new().force(true)).await.map(drop),
        // One that would fail only in its start may be there before it starts, which another test is for.
        Verb::Fail(fault) => {
            let fault = if fault == Fault::Start { Fault::Restore } else { fault };
            let asked = SwapOptions::new().force(true).config(orders(0, 0, Some(fault)));
            let done = host.swap_with("m", files.of(Some(fault)), asked).await;
            let expected =
                matches!(done, Err(KernelError::SwapFailed { .. } | KernelError::UnknownModule(_)));
            assert!(expected, "{fault:?}: {done:?}");
            Ok(())
        }
        Verb::Rollback => match host.rollback("m").await {
            Err(KernelError::NoPreviousBuild(_)) => Ok(()),
            done => done.map(drop),
        },
        Verb::Stop => match host.stop("m").await {
            Err(KernelError::IllegalTransition { .. }) => Ok(()),
            done => done,
        },
        Verb::Start => host.start("m").await,
        Verb::Unload => host.unload("m").await.map(|receipt| assert!(receipt.unmapped, "{receipt:?}")),
        Verb::Load => {
            let life = {
                let mut lives = lives.lock().unwrap();
                *lives += 1;
                *lives
            };
            match host.load_with(misbehaving(), options("m", orders(life, 0, None))).await {
                Err(KernelError::DuplicateModule(_)) => Ok(()),
                done => done.map(drop),
            }
        }
        Verb::Cancel => {
            let swap = pin!(host.swap_with("m", &files.good, SwapOptions::new().force(true)));
            let _ = swap.poll(&mut Context::from_waker(Waker::noop()));
            Ok(())
        }
    };
    match failed {
        Ok(()) | Err(KernelError::UnknownModule(_)) => None,
        Err(other) => panic!("{verb:?}: {other:?}"),
    }
}

proptest! {
    #![proptest_config(config(16))]

    /// All at once: every call is answered once, by the life in which it was counted, or refused for a reason that
    /// the module gave it; and what is announced is a life that a module can have.
    #[test]
    fn verbs_at_once_lose_and_repeat_nothing(tasks in proptest::collection::vec(verbs(12), 2..5)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stage = Stage::new().await;
            stage.perform(Verb::Load).await;
            let (files, lives) = (Arc::new(Files::new()), Arc::new(Mutex::new(1)));
            let tasks: Vec<_> = tasks
                .into_iter()
                .map(|verbs| {
                    let (host, files, lives) = (stage.host.clone(), files.clone(), lives.clone());
                    tokio::spawn(async move {
                        let mut answers = Vec::new();
                        for verb in verbs {
                            let one = among_others(host.clone(), files.clone(), lives.clone(), verb);
                            answers.extend(in_time(one).await);
                        }
                        answers
                    })
                })
                .collect();
            let mut counts: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
            for task in tasks {
                for (life, count) in task.await.unwrap() {
                    counts.entry(life).or_default().push(count);
                }
            }
            for (life, mut counts) in counts {
                counts.sort_unstable();
                let all: Vec<i64> = (1..=counts.len() as i64).collect();
                assert_eq!(counts, all, "in life {life} a call was lost or counted twice");
            }
            in_time(stage.host.shutdown()).await;
            eventually("nothing is mapped", || mapped(&stage.staging) == 0).await;
            let mut all = vec!["loaded".to_owned(), "started".to_owned()];
            all.extend(told(&mut stage.events));
            are_lives(&all);
        });
    }
}
