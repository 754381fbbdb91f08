//! How each crash point is reached.

use ob_crash::CrashPoint;
use ob_crash::CrashPoint as P;

/// What leads to a point. A point without a way does not compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The first start of a home.
    FirstStart,
    /// The first start on a database of an older program.
    OlderDatabase,
    /// Any start of a home with live sessions.
    Start,
    /// The start after the server died at that other point.
    StartAfter(CrashPoint),
    /// Sessions at work.
    Work,
    /// Messages that are too large for a row.
    LargeMessages,
    /// New sessions.
    Spawns,
    /// Patches.
    Patches,
    /// Deleted workspaces.
    Deletions,
    /// Tokens that come and go.
    Tokens,
    /// A stop.
    Stop,
}

/// The way to this point.
pub(crate) const fn way(point: CrashPoint) -> Way {
    match point {
        P::DatabaseDrafted | P::DatabaseNamed => Way::FirstStart,
        P::SnapshotMade | P::MigrationApplied | P::MigrationCommitted => Way::OlderDatabase,
        P::TransactionBefore
        | P::TransactionBegun
        | P::RequestApplied
        | P::CommitBefore
        | P::CommitAfter
        | P::EventsMoved
        | P::MoveCommitted
        | P::DoorbellsRung
        | P::BatchAnswered
        | P::PassiveCheckpointBefore
        | P::PassiveCheckpointAfter
        | P::RestartCheckpointBefore
        | P::RestartCheckpointAfter
        | P::StepBefore
        | P::StepCommitted
        | P::StepEffects
        | P::StepFlushed
        | P::StepDone
        | P::PromptBefore
        | P::PromptGiven
        | P::AckBefore
        | P::AckSent
        | P::ReserveBefore
        | P::Reserved
        | P::SettleBefore
        | P::Settled => Way::Work,
        P::BlobWritten | P::BlobNamed | P::BlobKept => Way::LargeMessages,
        P::SpawnBefore
        | P::SpawnCommitted
        | P::StartBegun
        | P::StartPrepared
        | P::StartLaunched
        | P::StartDialled
        | P::StartSpawned
        | P::EndBefore
        | P::EndAfter
        | P::WorkspaceBased
        | P::WorkspaceCloned
        | P::WorkspaceMade
        | P::WorkspaceRecorded => Way::Spawns,
        P::PatchStarted | P::PatchMade => Way::Patches,
        P::RecordBefore | P::RecordCommitted | P::DeleteRecorded | P::DeleteDone => Way::Deletions,
        P::LeftoverBefore | P::LeftoverAfter => Way::StartAfter(P::DeleteRecorded),
        P::TokenCommitBefore | P::TokenCommitAfter | P::TokenCheckpointed => Way::Tokens,
        P::LockTaken
        | P::LockWritten
        | P::Listening
        | P::Ready
        | P::EpochTaken
        | P::SessionClaimed
        | P::SessionsRecovered
        | P::AdoptHeld
        | P::AdoptDialled => Way::Start,
        P::OrphanClaimed | P::OrphanSettled => Way::StartAfter(P::Reserved),
        P::Draining | P::CleanedUp | P::ParkCommitted | P::Parked | P::CloseBefore | P::CloseAfter => {
            Way::Stop
        }
    }
}
