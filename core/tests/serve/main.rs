//! The pull side against real clients: what Go's tools and the pollers accept, what Go's own server answers, who may
//! ask, and what hostile clients cannot do. Each case is a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/go.rs"]
mod go_tool;

/// What is allocated is to be seen.
#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

mod client;
mod contract;
mod go;
mod hostile;
mod life;

const CASES: &[(&str, fn())] = &[
    ("what_pollers_accept_is_answered", contract::what_pollers_accept),
    ("many_addresses_are_named_at_once", contract::many_addresses),
    ("a_token_opens_and_nothing_else_does", contract::token),
    ("go_tool_pprof_reads_every_kind", go::tool_reads_every_kind),
    ("addresses_are_named_for_go_tool_pprof", go::addresses_are_named),
    ("answers_are_those_of_gos_own_server", go::side_by_side),
    ("slow_and_silent_clients_lose_their_place", hostile::slow_clients),
    ("a_thousand_connections_cost_nothing", hostile::thousand_connections),
    ("bytes_that_are_no_requests_are_refused", hostile::no_requests),
    ("those_who_leave_give_their_recordings_up", hostile::those_who_leave),
    ("recordings_are_bounded", hostile::recordings_are_bounded),
    ("answers_that_nobody_reads_are_given_up", hostile::nobody_reads),
    ("the_refused_who_stay_are_few", hostile::refused_and_staying),
    ("endless_senders_are_cut_off", hostile::endless_senders),
    ("a_half_closed_connection_gets_its_answers", hostile::half_closed),
    ("a_process_without_descriptors_has_a_server_that_waits", hostile::no_descriptors),
    ("a_port_that_is_taken_is_told", life::port_is_taken),
    ("nothing_is_left_after_the_stop", life::nothing_is_left),
    ("a_forked_child_has_nothing_of_the_server", life::fork),
    ("a_unix_socket_serves_too", life::unix_socket),
    ("a_unix_socket_of_others_is_left_alone", life::socket_of_others),
    ("servers_come_and_go_on_one_port", life::again_and_again),
    ("nothing_runs_where_nothing_is_asked_for", life::nothing_is_asked_for),
];

fn main() {
    common::main("serve", CASES, 2);
}
