//! A user's own folder as a workspace.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use ob_sandbox::namespace::give_to;

use crate::world::World;
use crate::world::is_root;

/// The user whose folder it is, if the tests run as root.
const USER: u32 = 4242;

fn git(world: &World, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "-c", "user.name=a", "-c", "user.email=a@b"])
        .args(args)
        .current_dir(world.path("work"))
        .output()
        .expect("git");
    assert!(output.status.success(), "{args:?} {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn repository() -> Option<World> {
    let world = World::new()?;
    git(&world, &["init", "-q"]);
    fs::write(world.path("work/file"), "one").expect("a file");
    git(&world, &["add", "-A"]);
    git(&world, &["commit", "-qm", "one"]);
    if is_root() {
        give_to(&world.path("work"), USER).expect("given");
    }
    Some(world)
}

#[tokio::test]
async fn in_a_users_folder_hooks_and_configuration_cannot_be_changed_by_any_way() {
    let Some(world) = repository() else { return };
    let attempts = "cd /workspace
        echo evil > .git/hooks/post-commit && echo GOT hook
        echo evil >> .git/config && echo GOT config
        rm -rf .git/hooks && echo GOT hooks removed
        mv .git/hooks .git/other && echo GOT hooks moved
        mv .git other && echo GOT git moved
        rm -f .git/config && echo GOT config removed
        git config core.pager evil && echo GOT git config
        mkdir evil; cp -r .git/HEAD evil/; echo ../evil > .git/commondir && echo GOT commondir
        rm -f .git/commondir && echo GOT commondir removed
        echo evil > .git/config.worktree
        mkdir -p .git/modules/evil && echo GOT modules
        git status --short > /dev/null && echo status works
        echo two > file && git -c user.name=a -c user.email=a@b commit -qam two && echo commit works
        true";
    let mut spec = world.spec("inplace");
    spec.workspace.in_place = true;
    let said = world.inside_of(&spec, attempts).await;
    assert!(!said.contains("GOT"), "{said}");
    assert!(said.contains("status works") && said.contains("commit works"), "{said}");
    assert!(git(&world, &["log", "--oneline"]).contains("two"), "the user has the commit");
    assert!(
        !world.path("work/.git/commondir").exists() && !world.path("work/.git/modules").exists(),
        "cleaned up"
    );
    git(&world, &["fsck"]);

    if is_root() {
        give_to(&world.path("work"), crate::world::HOST_UID).expect("given");
    }
    spec.workspace.in_place = false;
    let control = world.inside_of(&spec, attempts).await;
    assert!(
        control.contains("GOT hook") && control.contains("GOT config"),
        "the control: a clone is free: {control}"
    );
}

#[tokio::test]
async fn in_a_users_folder_files_keep_the_users_ownership() {
    let Some(world) = repository() else { return };
    let mut spec = world.spec("owner");
    spec.workspace.in_place = true;
    let said = world
        .inside_of(&spec, "cd /workspace; stat -c %u file; echo x > made; mkdir folder; ln -s made link; echo more >> file && echo WROTE")
        .await;
    assert!(said.starts_with("1000\n") && said.contains("WROTE"), "inside they are the agent's: {said}");
    let user = if is_root() { USER } else { rustix::process::geteuid().as_raw() };
    for name in ["file", "made", "folder", "link"] {
        let metadata = fs::symlink_metadata(world.path("work").join(name)).expect("there");
        assert_eq!(
            (metadata.uid(), metadata.gid()),
            (user, if is_root() { USER } else { metadata.gid() }),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_folder_without_a_repository_is_not_given_one_and_is_left_without_one() {
    let Some(world) = World::new() else { return };
    let mut spec = world.spec("plain");
    spec.workspace.in_place = true;
    let said = world.inside_of(&spec, "cd /workspace; git init -q . && echo GOT; mkdir -p .git/hooks && echo GOT; echo x > made && echo WROTE").await;
    assert!(!said.contains("GOT") && said.contains("WROTE"), "{said}");
    assert!(!world.path("work/.git").exists(), "the placeholder is gone");
}

#[tokio::test]
async fn a_workspace_for_looking_is_not_written() {
    let Some(world) = World::new() else { return };
    fs::write(world.path("work/file"), "content").expect("a file");
    let mut spec = world.spec("looking");
    spec.workspace.writable = false;
    let said = world.inside_of(&spec, "cat /workspace/file; touch /workspace/made && echo WROTE").await;
    assert!(said.contains("content") && !said.contains("WROTE"), "{said}");
}
