//! The promises of [`Backend`](crate::Backend) as tests, one function each, for every backend.
//!
//! A backend's tests make a [`Ground`] and call [`conformance_tests!`](crate::conformance_tests). The functions panic
//! when a promise is broken; nothing here is for production.
//!
//! Promises of [`walls`] need isolation. A backend that says that it does not isolate is held to the contrary: there
//! each attack must succeed. So it is the positive control of all others.

mod ground;
pub mod life;
pub mod limits;
pub mod walls;

pub use self::ground::Ground;
pub use self::ground::Live;
pub use self::ground::in_time;
pub use self::ground::until;

/// Makes one test of each promise for the ground that the expression makes; `None` skips them all.
#[macro_export]
macro_rules! conformance_tests {
    ($ground:expr) => {
        $crate::conformance_tests!(
            @each $ground;
            life: a_command_runs_in_the_workspace_and_what_it_writes_is_on_the_host
            life: home_and_temporary_folder_are_its_own
            life: nothing_of_the_servers_environment_is_inside
            life: an_end_leaves_no_process_group_or_folder
            life: a_later_server_adopts_it_and_knows_how_its_limits_are_held
            life: a_late_owner_ends_nothing_that_a_later_server_has
            life: a_late_owner_keeps_nothing_alive
            life: it_ends_itself_when_its_lease_runs_out
            life: a_second_start_of_the_same_name_is_refused_and_harms_nothing
            life: the_guest_program_starts_by_the_name_it_has_inside
            limits: processes_beyond_the_limit_are_refused_and_it_is_told
            limits: memory_beyond_the_limit_costs_a_process_and_it_is_told
            limits: a_busy_loop_gets_its_share_and_it_is_told
            limits: open_files_are_limited_for_each_process
            limits: a_full_workspace_ends_it_by_name_of_the_limit
            limits: a_file_alone_cannot_pass_the_limit_of_disk
            limits: deleted_files_that_are_open_count
            limits: too_many_files_end_it_by_name_of_the_limit
            limits: its_time_runs_out
            limits: what_nobody_heard_is_told_to_the_next_server
            limits: without_limits_the_same_work_goes_through
            walls: files_of_the_host_are_not_read
            walls: processes_of_the_host_are_not_seen
            walls: loopback_of_the_host_is_not_reached
            walls: abstract_sockets_of_the_host_are_not_seen
            walls: no_other_user_can_be_had
        );
    };
    (@each $ground:expr; $($part:ident: $promise:ident)*) => {
        $(
            #[test]
            fn $promise() {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let Some(ground) = $ground else { return };
                    $crate::conformance::in_time($crate::conformance::$part::$promise(&ground)).await;
                });
            }
        )*
    };
}
