//! How many callsites are made for what plugins say, and what of.

use super::*;

#[test]
fn a_callsite_is_made_once_for_all_generations() {
    recorded(|sink, seen| {
        let fields = [field("message", field_kind::DEBUG, 0, "again")];
        event(sink, &record("repeated", &fields));
        named(sink, "repeated");
        let before = Callsites::of_process().count();
        for generation in 0..1000 {
            let sink = LogSink::new("other".into(), generation);
            // Other memory every time, as when a library is mapped again.
            let name = String::from("repeated");
            event(&sink, &record(&name, &fields));
            sink.span_step(named(&sink, &name), span_step::CLOSE);
        }
        assert_eq!(Callsites::of_process().count(), before);
        assert_eq!(seen.take().len(), 2 + 1000 * 3);
    });
}

#[test]
fn made_up_names_end_in_the_generic_callsites() {
    recorded(|sink, seen| {
        let callsites: &'static Callsites = Box::leak(Box::new(Callsites::new(3)));
        let sink = LogSink {
            callsites,
            module: parking_lot::RwLock::new(sink.module.read().clone()),
            ..super::tests::sink()
        };
        for n in 0..100 {
            let (name, key) = (format!("made up {n}"), format!("key{n}"));
            let fields = [field("message", field_kind::DEBUG, 0, "hi"), field(&key, field_kind::U64, n, "")];
            event(&sink, &record(&name, &fields));
        }
        assert_eq!(callsites.count(), 3);
        let lines = seen.take();
        // One of them is the warning about it.
        assert_eq!(lines.len(), 101);
        assert!(lines[3].contains("plugins have used up the callsites"), "{}", lines[3]);
        assert_eq!(
            lines[100],
            "event message=debug:hi fields=debug:key99=99 plugin_name=str:made up 99 \
             plugin_target=str:echo::net module=str:echo generation=u64:7"
        );
        let span = named(&sink, "made up span");
        let late = [field("late", field_kind::BOOL, 1, "")];
        // SAFETY: the record comes from a slice.
        unsafe { sink.span_record(span, &record("", &late)) };
        assert_eq!(seen.take()[1], "record fields=debug:late=true");
    });
}

#[test]
fn a_callsite_of_much_text_is_not_kept() {
    recorded(|sink, seen| {
        let before = Callsites::of_process().count();
        event(sink, &record(&"n".repeat(5000), &[]));
        assert_eq!(Callsites::of_process().count(), before);
        assert!(seen.take()[0].contains("plugin_name=str:nnn"));
    });
}
