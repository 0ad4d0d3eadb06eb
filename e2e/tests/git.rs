//! git with its repository, work tree or both on the mount.

#![allow(clippy::needless_raw_string_hashes, reason = "all scripts are quoted alike")]

use defuse_e2e::{Case, same_as_plain, script};

/// Fixed identity and dates: equal work gives equal object names.
const IDENTITY: &str = r#"
    export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=C GIT_COMMITTER_EMAIL=c@example.org
    export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' GIT_PAGER=cat GIT_EDITOR=true
    git config --global init.defaultBranch main; git config --global advice.detachedHead false; git config --global gc.auto 0; git config --global pack.threads 1
    git config --global protocol.file.allow always; git config --global gc.writeCommitGraph false; git config --global maintenance.auto false
    for slow in statusUoption statusAheadBehindWarning resetNoRefresh; do git config --global advice.$slow false; done # what takes seconds is said
    fill() { local i; for i in $(seq 1 60); do mkdir -p "$1/d$((i % 7))"; seq "$i" $((i + 200)) >"$1/d$((i % 7))/f$i"; done; }
"#;

/// What differs between equal repositories: the index holds inode numbers and times of the work tree.
const FORGET_TIMES: &str = r#"
    find "$MNT" "$OUT" \( -name index -o -name '*.bitmap' -o -name gc.log -o -name ORIG_HEAD.lock \) -path '*.git/*' -type f -delete
"#;

fn git(text: &str) -> Case {
    script(format!("{IDENTITY}\n{text}\n{FORGET_TIMES}")).needs(&["git"])
}

same_as_plain! {
    init_add_commit_and_log: git(r#"
        cd "$MNT"; git init -q repo; cd repo; git status --short; fill .; git status --short | sort
        git add .; git status --short | wc -l; git commit -qm first; git log --format='%H %s' --stat; git status
        echo change >>d1/f1; rm d2/f2; git mv d3/f3 d3/moved; git diff --stat; git add -A; git commit -qm second; git show --stat HEAD
        git ls-files -s; git cat-file -p HEAD^{tree}; git fsck --full --strict; git grep -c 77 | head -n 3; git blame -s d1/f1 | tail -n 2
        git rev-parse HEAD; git tag -a -m tagged v1; git describe; git archive HEAD | tar -t | wc -l
    "#);

    gc_repacks_and_everything_is_still_there: git(r#"
        cd "$MNT"; git init -q repo; cd repo
        for i in 1 2 3 4 5; do fill .; echo "$i" >>d1/f1; git add .; git commit -qm "c$i"; done
        git count-objects -v | grep -v size; git gc -q --prune=now; git count-objects -v | grep -v size; git fsck --full
        git log --oneline | wc -l; git checkout -q HEAD~3; cat d1/f1 | tail -n 1; git checkout -q main; tail -n 1 d1/f1
        git repack -adfq --threads=1; git fsck; git prune; git pack-refs --all; git reflog | wc -l; git verify-pack .git/objects/pack/*.idx && echo verified
    "#);

    clone_fetch_push_between_mount_and_outside: git(r#"
        cd "$MNT"; git init -q origin; cd origin; fill .; git add .; git commit -qm one; cd ..
        git clone -q origin local; git clone -q --no-hardlinks origin copy; git clone -q --bare origin bare.git; git clone -q "file://$MNT/origin" transport
        git clone -q origin "$OUT/outside"; git clone -q "$OUT/outside" back; git clone -q --depth 1 "file://$MNT/origin" shallow; git clone -q --shared origin shared
        for d in local copy transport back shallow shared "$OUT/outside"; do git -C "$d" status --short; git -C "$d" rev-parse HEAD; git -C "$d" fsck; done
        cd local; echo more >f; git add f; git commit -qm two; git push -q "$MNT/bare.git" main; git -C ../bare.git log --oneline; cd ../copy
        git remote add bare ../bare.git; git fetch -q bare; git merge -q --ff-only bare/main; cat f; git -C ../back pull -q "$MNT/copy" main; git -C ../back log --oneline
    "#);

    reopened_repository_is_clean: git(r#"
        cd "$MNT/repo"; git status; git status --short; git update-index --refresh && echo fresh; git log --oneline; git fsck; git stash list
        echo x >>d1/f1; git status --short; git checkout -q d1/f1; git status --short; touch d1/f2; git diff --exit-code && echo clean
    "#).setup(REPOSITORY);

    branches_merges_and_conflicts: git(r#"
        cd "$MNT"; git init -q repo; cd repo; fill .; git add .; git commit -qm base
        git checkout -qb topic; sed -i 1s/.*/topic/ d1/f1; echo t >new; git add .; git commit -qm topic
        git checkout -q main; sed -i 5s/.*/main/ d1/f1; git commit -qam main; git merge -q --no-edit topic; git log --graph --oneline | cat; head -n 5 d1/f1
        git checkout -qb other HEAD~1; sed -i 1s/.*/other/ d1/f1; git commit -qam other; git merge main || echo "rc $?"; git status --short; cat d1/f1 | head -n 8
        git checkout --theirs d1/f1; git add d1/f1; git commit -qm resolved; git log --oneline; git diff HEAD~1 --stat
    "#);

    rebase_stash_cherry_pick_and_bisect: git(r#"
        cd "$MNT"; git init -q repo; cd repo; fill .; git add .; git commit -qm base
        git checkout -qb topic; for i in 1 2 3; do echo "$i" >>t; git add t; git commit -qm "t$i"; done
        git checkout -q main; echo m >m; git add m; git commit -qm m; git rebase -q main topic; git log --format='%H %s'
        echo dirty >>t; git stash -q; git stash list | cut -c1-20; git status --short; git stash pop -q; git diff; git checkout -q -- t
        git checkout -q main; git cherry-pick topic~1 >/dev/null || { git status --short; git cherry-pick --abort; }; git cherry-pick topic~2 >/dev/null; git log --oneline
        git checkout -q topic; GIT_SEQUENCE_EDITOR='sed -i 2d' git rebase -q -i HEAD~3 2>/dev/null || { git status --short; git rebase --abort; }
        git bisect start HEAD HEAD~3 >/dev/null; git bisect run sh -c 'test $(wc -l <t) -lt 2' | grep -c 'first bad'; git bisect reset 2>/dev/null
        git reset -q --hard HEAD~1; git clean -fdxq; git status --short; git revert --no-edit HEAD >/dev/null; cat t
    "#);

    worktrees_and_submodules: git(r#"
        cd "$MNT"; git init -q repo; cd repo; fill .; git add .; git commit -qm base
        git worktree add -q ../wt -b wt; git worktree add -q "$OUT/wt2" -b wt2; cd ../wt; echo w >w; git add w; git commit -qm w; git -C ../repo log --oneline wt
        echo o >"$OUT/wt2/o"; git -C "$OUT/wt2" add o; git -C "$OUT/wt2" commit -qm o; git worktree list | awk '{print $1, $3}'; cd ../repo; git worktree remove ../wt; git worktree prune; git branch
        cd "$MNT"; git init -q super; cd super; git submodule --quiet add "$MNT/repo" sub; git commit -qm sub; git submodule status
        git clone -q --recurse-submodules "$MNT/super" "$MNT/super2" 2>/dev/null; ls ../super2/sub | wc -l
        git -C "$MNT/super2" submodule foreach -q 'git rev-parse HEAD'; git init -q --separate-git-dir="$MNT/gitdir" "$OUT/separate"; cat "$OUT/separate/.git"
    "#);

    hooks_and_attributes: git(r#"
        cd "$MNT"; git init -q repo; cd repo
        printf '#!/bin/sh\necho "pre-commit $PWD" >>hooklog; test -f allow\n' >.git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
        echo x >f; git add f; git commit -qm no || echo "rc $?"; touch allow; git commit -qm yes; cat hooklog; git log --oneline | wc -l
        printf '*.txt text eol=crlf\n' >.gitattributes; printf 'a\nb\n' >t.txt; git add . 2>/dev/null; git commit -qm attr; rm t.txt; git checkout -q t.txt; od -c t.txt
        ln -s t.txt link; chmod +x f; git add .; git commit -qm modes; git ls-files -s; printf 'ignored\n' >.gitignore; touch ignored; git status --short; git config --local a.b c; cat .git/config
    "#);
}

/// A repository that is made without defuse, its index fresh.
const REPOSITORY: &str = r#"
    export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=C GIT_COMMITTER_EMAIL=c@example.org
    export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
    git init -q -b main repo; cd repo; for i in $(seq 1 40); do mkdir -p d$((i % 7)); seq $i 300 >d$((i % 7))/f$i; done
    git add .; git commit -qm made; touch d1/f2; git add .; echo more >d1/f2; git add .; git commit -qm changed
"#;
