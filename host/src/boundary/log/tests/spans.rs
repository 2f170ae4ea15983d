//! Spans: where they hang, who closes them, and what a plugin may get wrong.

use super::*;

#[test]
fn spans_and_events_hang_where_the_plugin_says() {
    recorded(|sink, seen| {
        let host = tracing::info_span!("host");
        let _inside = host.enter();
        let outer = named(sink, "outer");
        sink.span_step(outer, span_step::ENTER);
        let inner = named(sink, "inner");
        open(sink, &hung(record("lone", &[]), 1, 0));
        open(sink, &hung(record("child", &[]), 2, inner));
        seen.take();
        event(sink, &record("e", &[]));
        event(sink, &hung(record("e", &[]), 1, 0));
        event(sink, &hung(record("e", &[]), 2, inner));
        for unknown in [0, u64::MAX, 4711] {
            event(sink, &hung(record("e", &[]), 2, unknown));
        }
        sink.span_step(outer, span_step::EXIT);
        event(sink, &record("e", &[]));
        assert_eq!(
            seen.take(),
            [
                "event <outer <host module=str:echo generation=u64:7",
                "event module=str:echo generation=u64:7",
                "event <inner <outer <host module=str:echo generation=u64:7",
                "event module=str:echo generation=u64:7",
                "event module=str:echo generation=u64:7",
                "event module=str:echo generation=u64:7",
                "exit outer",
                "event <host module=str:echo generation=u64:7",
            ]
        );
    });
    recorded(|sink, seen| {
        let outer = named(sink, "outer");
        open(sink, &hung(record("child", &[]), 2, outer));
        sink.span_step(outer, span_step::ENTER);
        open(sink, &hung(record("lone", &[]), 1, 0));
        assert_eq!(
            seen.take(),
            [
                "open <outer module=str:echo generation=u64:7",
                "open <child <outer module=str:echo generation=u64:7",
                "enter outer",
                "open <lone module=str:echo generation=u64:7",
            ]
        );
    });
}

#[test]
fn a_spans_fields_may_get_their_values_later() {
    recorded(|sink, seen| {
        let declared = [field("status", field_kind::EMPTY, 0, ""), field("path", field_kind::STR, 0, "/")];
        let span = open(sink, &record("request", &declared));
        let late = [
            field("unknown", field_kind::U64, 1, ""),
            field("status", field_kind::U64, 200, ""),
            field("generation", field_kind::U64, 1, ""),
        ];
        for span in [span, 0, u64::MAX] {
            // SAFETY: the record comes from a slice.
            unsafe { sink.span_record(span, &record("", &late)) };
        }
        assert_eq!(
            seen.take(),
            ["open <request path=str:/ module=str:echo generation=u64:7", "record status=u64:200"]
        );
    });
}

#[test]
fn a_span_stays_with_the_subscriber_that_made_it() {
    let _alone = alone();
    let (here, there) = (Recorder::default(), Recorder::default());
    let (home, away) = (here.dispatch(), there.dispatch());
    let sink = sink();
    let (parent, child) = dispatcher::with_default(&home, || {
        let parent = named(&sink, "parent");
        (parent, open(&sink, &hung(record("child", &[]), 2, parent)))
    });
    here.take();
    dispatcher::with_default(&away, || {
        for step in [span_step::CLONE, span_step::ENTER, span_step::EXIT, span_step::CLOSE] {
            assert_eq!(sink.span_step(child, step), 0);
        }
        event(&sink, &hung(record("e", &[]), 2, child));
        let grandchild = open(&sink, &hung(record("grandchild", &[]), 2, child));
        assert_eq!(sink.span_step(grandchild, span_step::CLOSE), 1);
        assert_eq!(sink.span_step(parent, span_step::CLOSE), 1);
        // The parent goes with its last child, though this thread's subscriber is another one.
        assert_eq!(sink.span_step(child, span_step::CLOSE), 1);
    });
    assert_eq!(there.take(), [""; 0]);
    assert_eq!(
        here.take(),
        [
            "enter child",
            "exit child",
            "event <child <parent module=str:echo generation=u64:7",
            "open <grandchild <child <parent module=str:echo generation=u64:7",
            "close grandchild",
            "close child",
            "close parent",
        ]
    );
}

#[test]
fn bad_sequences_do_not_reach_the_subscriber() {
    recorded(|sink, seen| {
        let span = named(sink, "bad");
        seen.take();
        sink.span_step(span, span_step::EXIT);
        sink.span_step(span, 77);
        sink.span_step(span, span_step::ENTER);
        // Another thread cannot leave what this one is in.
        thread::scope(|scope| {
            scope.spawn(|| sink.span_step(span, span_step::EXIT));
        });
        assert_eq!(sink.span_step(span, span_step::CLOSE), 1);
        for step in [span_step::CLOSE, span_step::CLONE, span_step::ENTER] {
            assert_eq!(sink.span_step(span, step), 0);
        }
        assert_eq!(seen.take(), ["enter bad"]);
        for _ in 0..2 {
            sink.span_step(span, span_step::EXIT);
        }
        assert_eq!(seen.take(), ["exit bad", "close bad"]);
        for number in [0, span, 4711, u64::MAX] {
            for step in 0..=4 {
                assert_eq!(sink.span_step(number, step), 0);
            }
        }
        event(sink, &record("after", &[]));
        assert_eq!(seen.take(), ["event module=str:echo generation=u64:7"]);
        assert_eq!(sink.revoke(), 0);
    });
}

#[test]
fn a_revoked_sink_has_closed_its_spans_and_is_silent() {
    recorded(|sink, seen| {
        let span = named(sink, "outer");
        sink.span_step(span, span_step::ENTER);
        sink.span_step(span, span_step::ENTER);
        let inner = named(sink, "inner");
        sink.span_step(inner, span_step::ENTER);
        named(sink, "idle");
        seen.take();
        assert_eq!(sink.revoke(), 3);
        let lines = seen.take();
        assert_eq!(lines[..3], ["exit inner", "exit outer", "exit outer"]);
        assert_eq!(lines[3..], ["close idle", "close inner", "close outer"]);
        for step in 0..=4 {
            assert_eq!(sink.span_step(span, step), 0);
        }
        event(sink, &record("late", &[]));
        assert_eq!(named(sink, "late"), 0);
        assert_eq!(sink.revoke(), 0);
        assert_eq!(seen.take(), [""; 0]);
        tracing::info!("of the host");
        assert_eq!(seen.take(), ["event message=debug:of the host"]);
    });
}

#[test]
fn a_thread_may_leave_a_span_after_the_revoke() {
    recorded(|sink, seen| {
        let span = named(sink, "busy");
        sink.span_step(span, span_step::ENTER);
        seen.take();
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(sink.revoke(), 1));
        });
        assert_eq!(seen.take(), [""; 0]);
        sink.span_step(span, span_step::EXIT);
        assert_eq!(seen.take(), ["exit busy", "close busy"]);
    });
    recorded(|_, seen| {
        let sink = sink();
        sink.span_step(named(&sink, "stuck"), span_step::ENTER);
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(sink.revoke(), 1));
        });
        drop(sink);
        assert_eq!(seen.take().last().unwrap(), "close stuck");
    });
}

#[test]
fn many_threads_share_a_sink() {
    recorded(|sink, seen| {
        let dispatch = dispatcher::get_default(Clone::clone);
        let shared = named(sink, "shared");
        seen.take();
        thread::scope(|scope| {
            for n in 0..4 {
                let dispatch = &dispatch;
                scope.spawn(move || {
                    dispatcher::with_default(dispatch, || {
                        for round in 0..200 {
                            sink.span_step(shared, span_step::ENTER);
                            let own = named(sink, &format!("race {}", (n + round) % 7));
                            event(sink, &hung(record("race", &[]), 2, own));
                            sink.span_step(shared, span_step::EXIT);
                            assert_eq!(sink.span_step(own, span_step::CLOSE), 1);
                        }
                    });
                });
            }
        });
        assert_eq!(seen.take().len(), 4 * 200 * 5);
        assert_eq!(sink.revoke(), 1);
        assert_eq!(seen.take(), ["close shared"]);
    });
}
