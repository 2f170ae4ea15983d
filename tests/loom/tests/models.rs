//! Each promise, with both models of the barriers. The numbers are of preemptions, chosen so that a model
//! takes seconds; `LOOM_MAX_PREEMPTIONS` overrules them.

use oxide_loom::{
    Barriers::{Asymmetric, Fences},
    check,
    models::{call, gate, seat},
};

fn with_both(preemptions: usize, model: fn()) {
    check(Fences, preemptions, model);
    check(Asymmetric, preemptions, model);
}

#[test]
fn after_the_drain_nobody_is_inside() {
    with_both(2, gate::drain::<4>);
    with_both(2, gate::drain::<2>);
    with_both(2, gate::drain::<1>);
}

#[test]
fn who_went_in_on_one_thread_may_go_out_on_another() {
    with_both(3, gate::handed_over::<4>);
    with_both(3, gate::handed_over::<2>);
}

#[test]
fn a_call_that_comes_back_is_let_in_until_the_drain_is_over() {
    with_both(3, gate::coming_back::<4>);
    with_both(3, gate::coming_back::<2>);
    with_both(3, seat::coming_back);
}

#[test]
fn a_gate_is_opened_again_after_its_drain() {
    with_both(3, gate::opened_again::<3>);
    with_both(2, gate::opened_again::<1>);
}

#[test]
fn two_that_shut_a_gate_are_both_told() {
    with_both(2, gate::two_shut_it::<4>);
}

#[test]
fn a_seat_that_is_used_again_takes_no_caller_of_its_last_module() {
    with_both(4, || seat::used_again(1));
    with_both(2, || seat::used_again(2));
}

#[test]
fn a_route_that_is_switched_turns_nobody_away() {
    with_both(2, seat::switched);
}

#[test]
fn a_drain_that_is_given_up_lets_everybody_in() {
    with_both(2, gate::given_up::<4>);
    with_both(2, gate::given_up::<2>);
}

#[test]
fn a_call_that_a_swap_holds_goes_into_the_new_generation() {
    with_both(3, || seat::held_and_switched(1));
    with_both(1, || seat::held_and_switched(2));
}

#[test]
fn a_call_that_one_swap_let_go_may_be_held_by_the_next() {
    with_both(2, seat::held_twice);
}

#[test]
fn a_call_that_comes_back_is_let_in_while_others_are_held() {
    with_both(3, seat::held_and_come_back);
}

#[test]
fn a_call_that_a_swap_held_in_vain_goes_into_the_old_generation() {
    with_both(3, || seat::held_and_given_up(1));
    with_both(1, || seat::held_and_given_up(2));
}

#[test]
fn a_call_that_one_too_many_waits_with_goes_into_whichever_generation_serves() {
    with_both(3, || seat::held_and_perhaps_full(1));
    with_both(1, || seat::held_and_perhaps_full(2));
}

#[test]
fn a_wake_from_any_thread_is_never_lost() {
    with_both(4, call::woken_from_elsewhere);
    with_both(4, call::cloned_on_two_threads);
    with_both(4, call::moved_to_another_task);
}

#[test]
fn an_unload_cancels_every_call_that_waits() {
    with_both(4, call::cancelled);
    with_both(3, call::cancelled_and_woken);
    with_both(4, call::cancelled_and_dropped);
    with_both(4, call::cancelled_and_forgotten);
}

#[test]
fn a_late_cancelling_leaves_the_next_run_alone() {
    with_both(3, call::cancelling_late);
}
