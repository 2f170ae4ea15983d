//! Signal handlers: a library stays as long as one leads into it, or may.

use oxide_host::report::Holder;
use oxide_tests::{House, block_on, child};
use serde_json::json;

/// What a call of `method` installs holds the library.
async fn holds(method: &str) {
    let mut house = House::new().await;
    house.load("clinging").await;
    house.call("clinging", method, "").await;
    house.call("clinging", "raise", "").await;
    assert_eq!(house.retained("clinging").await, [(Holder::SignalHandler, 1)]);
    // Whoever raises it finds its code.
    house.load_as("clinging", "other", json!({})).await;
    house.call("other", "raise", "").await;
    house.gone("other").await;
}

#[test]
fn a_signal_handler_holds_the_library() {
    child(&["clinging"]).run(|| block_on(holds("sigaction")));
}

#[test]
fn a_signal_handler_that_was_put_there_in_the_old_way_holds_the_library() {
    child(&["clinging"]).run(|| block_on(holds("signal")));
}

#[test]
fn a_signal_handler_that_was_put_back_before_the_stop_holds_nothing() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            let config = json!({ "start": ["sigaction"], "stop": ["sigaction_restore"] });
            house.load_as("clinging", "clinging", config).await;
            house.call("clinging", "raise", "").await;
            house.gone("clinging").await;
            let config = json!({ "start": ["signal"], "stop": ["signal_default"] });
            house.load_as("clinging", "clinging", config).await;
            house.call("clinging", "raise", "").await;
            house.gone("clinging").await;
        });
    });
}

#[test]
fn a_signal_handler_that_another_was_put_over_holds_both_until_the_first_state_is_back() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load_as("clinging", "below", json!({ "start": ["sigaction"] })).await;
            let config = json!({ "start": ["sigaction"], "stop": ["signal_default"] });
            house.load_as("clinging", "above", config).await;
            // The one above may call it: nobody sees that.
            assert_eq!(house.retained("below").await, [(Holder::SignalHandler, 1)]);
            house.call("above", "raise", "").await;
            // Its stop puts the default in place of both.
            house.gone("above").await;
            house.gone_at_last("below").await;
        });
    });
}

#[test]
fn of_two_handlers_the_one_above_goes_and_leads_to_the_one_below_again() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load_as("clinging", "below", json!({ "start": ["sigaction"] })).await;
            let config = json!({ "start": ["sigaction"], "stop": ["sigaction_restore"] });
            house.load_as("clinging", "above", config).await;
            house.gone("above").await;
            house.call("below", "raise", "").await;
            assert_eq!(house.retained("below").await, [(Holder::SignalHandler, 1)]);
        });
    });
}
