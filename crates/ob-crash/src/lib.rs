//! Crash points: every place between two steps of durable work, by name, where the crash harness kills the server.
//!
//! The code of the product says [`reach`] there. Without the feature `failpoints`, which no shipped build has, that is
//! nothing. With it, a process that was told to by [`arm`] ends itself as `kill -9` would: nothing is flushed, dropped
//! or told. The catalogue is an enum, so no point has a name that is not in it, and the harness must say for each how it
//! is reached.

#[cfg(feature = "failpoints")]
mod armed;

#[cfg(feature = "failpoints")]
pub use armed::InvalidPlan;
#[cfg(feature = "failpoints")]
pub use armed::arm;
#[cfg(feature = "failpoints")]
pub use armed::reach;

/// True in a build for the crash harness. Bounds that it could not reach in a short time are lower there.
pub const ENABLED: bool = cfg!(feature = "failpoints");

macro_rules! crash_points {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)*) => {
        /// A place where the harness kills the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum CrashPoint {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl CrashPoint {
            /// The whole catalogue.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// `area.thing.moment`, as in the harness's reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What is done already when it is reached, and what is not.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)*
                }
            }
        }
    };
}

crash_points! {
    /// A new database is filled and flushed under another name; it does not have its own name yet.
    DatabaseDrafted = "store.create.drafted";
    /// A new database has its name, and that is not flushed yet.
    DatabaseNamed = "store.create.named";
    /// A copy of the database was made before a migration; the migration has not begun.
    SnapshotMade = "store.migrate.snapshot";
    /// A migration is applied in its transaction, which is not committed.
    MigrationApplied = "store.migrate.applied";
    /// A migration is committed.
    MigrationCommitted = "store.migrate.committed";

    /// A transaction is about to begin: a batch was taken from the queue, or events are to be moved or purged.
    TransactionBefore = "store.begin.before";
    /// The transaction has begun; nothing is applied.
    TransactionBegun = "store.begin.after";
    /// One request of the batch is applied in the open transaction.
    RequestApplied = "store.apply.after";
    /// All is applied; nothing is committed.
    CommitBefore = "store.commit.before";
    /// The transaction is durable; nobody is told.
    CommitAfter = "store.commit.after";
    /// Events of the tail are moved to their place in a transaction that is not committed.
    EventsMoved = "store.move.applied";
    /// Events of the tail are moved; the writer has not noted it.
    MoveCommitted = "store.move.committed";
    /// Doorbells have rung; nobody is answered.
    DoorbellsRung = "store.announce.rung";
    /// Everyone in the batch is answered.
    BatchAnswered = "store.announce.answered";
    /// The WAL is about to be copied in the background.
    PassiveCheckpointBefore = "store.checkpoint.passive.before";
    /// The WAL was copied in the background.
    PassiveCheckpointAfter = "store.checkpoint.passive.after";
    /// The WAL is over its cap and about to be started anew.
    RestartCheckpointBefore = "store.checkpoint.restart.before";
    /// The WAL was copied whole; the next commit starts it anew.
    RestartCheckpointAfter = "store.checkpoint.restart.after";
    /// All is written at a stop; the WAL is not emptied.
    CloseBefore = "store.close.before";
    /// The WAL is emptied at a stop; the database is not closed.
    CloseAfter = "store.close.after";

    /// A large payload is written and flushed under another name.
    BlobWritten = "store.blob.written";
    /// A large payload has its name, and that is not flushed yet.
    BlobNamed = "store.blob.named";
    /// A large payload and its name are durable; the commit that refers to it has not begun.
    BlobKept = "store.blob.kept";

    /// A token is made or revoked in its transaction, which is not committed.
    TokenCommitBefore = "auth.commit.before";
    /// A change of tokens is durable in the WAL; it is not in the file itself.
    TokenCommitAfter = "auth.commit.after";
    /// A change of tokens is in the file itself; nobody is told.
    TokenCheckpointed = "auth.checkpoint.after";

    /// The home's lock is taken; the holder's name is not in it.
    LockTaken = "server.lock.taken";
    /// The holder's name is in the lock file.
    LockWritten = "server.lock.written";
    /// Sockets and the pid file are there; the store is not open.
    Listening = "server.listening";
    /// The engine runs and the server says that it is ready; whoever started it was not told.
    Ready = "server.ready";
    /// The lock says that the server is about to let go; it still drives its sessions.
    Draining = "server.draining";
    /// The pid file and the control socket are gone; the lock still names its holder.
    CleanedUp = "server.cleaned_up";

    /// This server has its epoch; it has looked at nothing.
    EpochTaken = "engine.epoch.taken";
    /// A model call that an earlier crash cut off is claimed for booking and not booked.
    OrphanClaimed = "engine.orphan.claimed";
    /// A model call that an earlier crash cut off is booked.
    OrphanSettled = "engine.orphan.settled";
    /// A session of an earlier server is claimed; nothing drives it.
    SessionClaimed = "engine.recover.claimed";
    /// All sessions of an earlier server are driven again.
    SessionsRecovered = "engine.recover.all";

    /// A new session is put together; nothing of it is durable.
    SpawnBefore = "engine.spawn.before";
    /// A new session is durable; nothing drives it, and its caller was not told.
    SpawnCommitted = "engine.spawn.committed";
    /// A step of a session is decided and not durable.
    StepBefore = "engine.step.before";
    /// A step is durable; nothing was done about it.
    StepCommitted = "engine.step.committed";
    /// A step is durable and its sandbox is being started or ended; the agent's input was not given.
    StepEffects = "engine.step.effects";
    /// The agent's input is on its way; its output is not acknowledged.
    StepFlushed = "engine.step.flushed";
    /// All that follows from a step is done or on its way; whoever asked for it was not told.
    StepDone = "engine.step.done";

    /// Input is about to be given to the agent.
    PromptBefore = "engine.prompt.before";
    /// The agent has taken input; that is not noted.
    PromptGiven = "engine.prompt.given";
    /// Output that is durable is about to be acknowledged to the guest.
    AckBefore = "engine.ack.before";
    /// The guest has forgotten output that is durable.
    AckSent = "engine.ack.sent";

    /// What is left of an earlier sandbox of the session is gone; nothing of the new one is there.
    StartBegun = "engine.start.begun";
    /// The workspace is there and the gate is open; the sandbox is not made.
    StartPrepared = "engine.start.prepared";
    /// The sandbox runs; its guest has not dialled.
    StartLaunched = "engine.start.launched";
    /// The guest has dialled; there is no agent.
    StartDialled = "engine.start.dialled";
    /// The agent runs; the session does not know it.
    StartSpawned = "engine.start.spawned";
    /// An earlier server's sandbox is held; its guest has not dialled.
    AdoptHeld = "engine.adopt.held";
    /// The guest of an earlier server's sandbox has dialled; the session does not know it.
    AdoptDialled = "engine.adopt.dialled";
    /// A sandbox is about to be ended.
    EndBefore = "engine.end.before";
    /// A sandbox is ended; the session does not know it.
    EndAfter = "engine.end.after";

    /// The base of a workspace is made; the workspace is not.
    WorkspaceBased = "engine.workspace.based";
    /// A workspace is cloned; its owner does not have it.
    WorkspaceCloned = "engine.workspace.cloned";
    /// A workspace is whole; its record does not say so.
    WorkspaceMade = "engine.workspace.made";
    /// A workspace is whole and its record says so; no sandbox has it.
    WorkspaceRecorded = "engine.workspace.recorded";
    /// The sandbox that makes a patch runs.
    PatchStarted = "engine.patch.started";
    /// A patch is made; its sandbox runs.
    PatchMade = "engine.patch.made";
    /// A project or workspace is to be made or deleted; nothing of it is durable.
    RecordBefore = "engine.record.before";
    /// The record of a project or workspace is made or deleted; whoever asked for it was not told.
    RecordCommitted = "engine.record.committed";
    /// The record of a project or workspace is deleted; its files are there.
    DeleteRecorded = "engine.delete.recorded";
    /// The record and the files of a project or workspace are deleted; nobody was told.
    DeleteDone = "engine.delete.done";
    /// Files that a crash left are about to be removed.
    LeftoverBefore = "engine.leftover.before";
    /// Some of the files that a crash left are removed.
    LeftoverAfter = "engine.leftover.after";
    /// A server that stops has recorded that a session was parked; its sandbox runs.
    ParkCommitted = "engine.park.committed";
    /// A server that stops has let go of all sessions; the store is open.
    Parked = "engine.park.all";

    /// What a model call may cost is about to be reserved.
    ReserveBefore = "gate.reserve.before";
    /// What a model call may cost is reserved; nothing was sent.
    Reserved = "gate.reserve.after";
    /// A model has answered; what it cost is not booked.
    SettleBefore = "gate.settle.before";
    /// What a model call cost is booked.
    Settled = "gate.settle.after";
}

/// Says that this point is reached. Nothing happens in a build that ships.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn reach(_point: CrashPoint) {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_tell_where_and_when() {
        let names: BTreeSet<&str> = CrashPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), CrashPoint::ALL.len());
        for point in CrashPoint::ALL {
            let (area, rest) = point.name().split_once('.').expect("an area and a thing");
            assert!(["auth", "engine", "gate", "server", "store"].contains(&area), "{point:?}");
            assert!(!rest.is_empty() && point.meaning().trim().ends_with('.'), "{point:?}");
        }
    }
}
