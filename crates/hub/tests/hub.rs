//! Downloads from a hub that misbehaves.

#![allow(clippy::unwrap_used, reason = "tests")]

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use keeve_hub::{Error, Fetched, Hub, Progress, Revision};
use server::{Asked, COMMIT, Files, Reply, Server, content, model, part, sha256, status};
use tempfile::TempDir;

const SIZE: usize = 700_000;

fn gguf() -> Files {
    vec![("m-Q4_K_M.gguf", content(SIZE)), ("README.md", b"x".to_vec())]
}

fn fetch(hub: &Hub, name: &str) -> Result<Fetched, Error> {
    hub.fetch(&model(name), &Revision::default(), &|_| true)
}

/// Every file under a folder, by its path in it; links are followed.
fn tree(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => walk(&path, root, found),
                false => found.push(path.strip_prefix(root).unwrap().to_str().unwrap().into()),
            }
        }
    }
    let mut found = vec![];
    walk(folder, folder, &mut found);
    found.retain(|path| !path.starts_with(".locks"));
    found.sort();
    found
}

fn root(folder: &TempDir) -> PathBuf {
    folder.path().join("hub/models--some--model")
}

/// A hub that answers requests for the content of the GGUF file as told, until it gives up being told.
fn moody(answer: impl Fn(&Asked, usize) -> Option<Reply> + Send + Sync + 'static) -> Server {
    Server::new(gguf(), move |asked, before| {
        let is_content = asked.method == "GET" && asked.path.starts_with("/elsewhere/m-");
        is_content.then(|| answer(asked, before)).flatten()
    })
}

/// Fetching fails for good; nothing then has a final name. Gives the message.
fn fails(server: &Server, name: &str) -> String {
    let folder = TempDir::new().unwrap();
    let message = fetch(&server.hub(&folder), name).unwrap_err().to_string();
    let finished = |path: &String| !path.ends_with(".incomplete");
    assert!(!tree(&root(&folder)).iter().any(finished), "{:?}", tree(&root(&folder)));
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn the_cache_is_laid_out_as_other_programs_expect() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let files: Files = vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{ }".to_vec()),
        ("model.safetensors.index.json", index.to_vec()),
        ("model-1.safetensors", content(1000)),
        ("model-2.safetensors", content(2000)),
        ("pytorch_model.bin", content(3000)),
        ("onnx/model.onnx", content(10)),
    ];
    let server = Server::new(files.clone(), |_, _| None);
    let folder = TempDir::new().unwrap();
    let hub = server.hub(&folder);
    let largest = AtomicU64::new(0);
    let watch = |progress: Progress<'_>| {
        assert!(progress.done <= progress.total);
        largest.fetch_max(progress.total, Ordering::Relaxed);
        true
    };
    let fetched = hub.fetch(&model("some/model"), &Revision::default(), &watch).unwrap();
    assert_eq!(largest.load(Ordering::Relaxed), 3000);
    assert_eq!((&fetched.commit[..], &fetched.notes[..]), (COMMIT, &[][..]));
    let root = root(&folder);
    assert_eq!(fetched.path, root.join("snapshots").join(COMMIT));
    let mut expected = vec!["refs/main".to_owned()];
    for (name, content) in &files[..5] {
        expected.push(format!("blobs/{}", sha256(content)));
        expected.push(format!("snapshots/{COMMIT}/{name}"));
        assert_eq!(&fs::read(fetched.path.join(name)).unwrap(), content);
    }
    expected.sort();
    assert_eq!(tree(&root), expected);
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    if cfg!(unix) {
        let link = fs::read_link(fetched.path.join("config.json")).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(sha256(b"{}")));
    }
    // The second time nothing is downloaded, by a commit's hash nothing even asked.
    let count = || server.asked.lock().unwrap().len();
    let before = count();
    assert_eq!(fetch(&hub, "some/model").unwrap(), fetched);
    assert_eq!(count(), before + 1);
    let commit = Revision::parse(COMMIT).unwrap();
    assert_eq!(hub.fetch(&model("some/model"), &commit, &|_| true).unwrap(), fetched);
    let offline = server.hub_with(&folder, |settings| settings.offline = true);
    assert_eq!(fetch(&offline, "some/model").unwrap(), fetched);
    assert_eq!(count(), before + 1);

    let [cached] = &hub.list()[..] else { panic!("{:?}", hub.list()) };
    assert_eq!((cached.model.repo(), cached.partial_bytes), ("some/model".into(), 0));
    assert_eq!(cached.bytes, 3000 + 2 + 3 + index.len() as u64);
    assert_eq!(
        (&cached.snapshots[0].refs[..], cached.snapshots[0].files.len()),
        (&["main".into()][..], 5)
    );
    assert!(cached.last_used.is_some());
    assert!(
        hub.remove(&model("some/model")).unwrap() && !hub.remove(&model("some/model")).unwrap()
    );
    assert_eq!((hub.list(), tree(folder.path())), (vec![], vec![]));
}

#[test]
fn a_cut_connection_is_taken_up_where_it_broke_off() {
    let server = moody(|asked, before| {
        let rest = SIZE - asked.from();
        (before < 3)
            .then(|| Reply { cut: Some((rest / 2).min(200_000)), ..part(asked, &content(SIZE)) })
    });
    let folder = TempDir::new().unwrap();
    let fetched = fetch(&server.hub(&folder), "some/model:q4_k_m").unwrap();
    assert!(fs::read(fetched.path).unwrap() == content(SIZE));
    let parts = server.parts("m-Q4_K_M.gguf?signed=1");
    assert_eq!((parts.len(), parts[0]), (4, 0));
    assert!(parts.windows(2).all(|pair| pair[0] < pair[1]), "{parts:?}");
    assert!(!tree(&root(&folder)).iter().any(|path| path.ends_with(".incomplete")));
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_beginning() {
    let server = moody(|_, before| {
        let cut = (before == 0).then_some(SIZE / 2);
        Some(Reply { body: content(SIZE), cut, ..status(200) })
    });
    let folder = TempDir::new().unwrap();
    let fetched = fetch(&server.hub(&folder), "some/model").unwrap();
    assert!(fs::read(fetched.path).unwrap() == content(SIZE));
    // One that then never comes through is given up, though bytes arrive each time.
    let server = moody(|_, _| Some(Reply { body: content(SIZE), cut: Some(9999), ..status(200) }));
    let message = fails(&server, "some/model");
    assert!(message.contains("broke off after 9999 of 700000 bytes"), "{message}");
}

#[test]
fn an_interrupted_download_goes_on_in_the_next_process() {
    let server = Server::new(gguf(), |_, _| None);
    let folder = TempDir::new().unwrap();
    let stop = |progress: Progress<'_>| progress.done < 300_000;
    let stopped = server.hub(&folder).fetch(&model("some/model"), &Revision::default(), &stop);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let blob = format!("blobs/{}", sha256(&content(SIZE)));
    assert_eq!(tree(&root(&folder)), [format!("{blob}.incomplete")]);
    assert!(server.hub(&folder).list()[0].partial_bytes >= 300_000);
    let offline = server.hub_with(&folder, |settings| settings.offline = true);
    assert!(matches!(fetch(&offline, "some/model"), Err(Error::Offline { .. })));
    let fetched = fetch(&server.hub(&folder), "some/model").unwrap();
    assert!(fs::read(fetched.path).unwrap() == content(SIZE));
    let parts = server.parts("m-Q4_K_M.gguf?signed=1");
    assert!(parts.len() == 2 && parts[1] >= 300_000, "{parts:?}");
}

#[test]
fn parts_that_are_damaged_or_too_long_are_thrown_away() {
    for part in [
        content(SIZE / 2).into_iter().map(|byte| !byte).collect(),
        vec![7; SIZE],
        vec![7; SIZE + 1],
    ] {
        let server = Server::new(gguf(), |_, _| None);
        let folder = TempDir::new().unwrap();
        let blobs = root(&folder).join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        let name = format!("{}.incomplete", sha256(&content(SIZE)));
        fs::write(blobs.join(name), part).unwrap();
        let fetched = fetch(&server.hub(&folder), "some/model").unwrap();
        assert!(fs::read(fetched.path).unwrap() == content(SIZE));
    }
}

#[test]
fn content_that_is_not_what_its_hash_or_length_says_gets_no_name() {
    let wrong = |edit: fn(&mut Reply)| {
        let server = moody(move |asked, _| {
            let mut reply = part(asked, &content(SIZE));
            edit(&mut reply);
            Some(reply)
        });
        fails(&server, "some/model")
    };
    let message = wrong(|reply| reply.body[5] ^= 1);
    assert!(
        message.contains("some/model: m-Q4_K_M.gguf: the content is not what its hash says"),
        "{message}"
    );
    let message = wrong(|reply| reply.body.truncate(10));
    assert!(message.contains("announces 10 bytes, expected 700000"), "{message}");
    let message = wrong(|reply| reply.body.push(0));
    assert!(message.contains("announces 700001 bytes"), "{message}");
    let message = wrong(|reply| reply.length = Some(1 << 40));
    assert!(message.contains("announces"), "{message}");
    // A part other than the one that was asked for.
    let server = moody(|asked, _| match asked.from() {
        0 => Some(Reply { cut: Some(100), ..part(asked, &content(SIZE)) }),
        _ => Some(Reply {
            status: 206,
            headers: vec![("Content-Range", "bytes 50-699999/700000".into())],
            body: content(SIZE)[50..].to_vec(),
            ..Reply::default()
        }),
    });
    let message = fails(&server, "some/model");
    assert!(message.contains("another part"), "{message}");
}

#[test]
fn a_busy_or_broken_server_gets_some_patience() {
    let server = Server::new(gguf(), |asked, before| {
        let wait = ("Retry-After", "0".to_owned());
        let busy = if asked.path.starts_with("/api") { 500 } else { 429 };
        (before < 2).then(|| Reply { headers: vec![wait], ..status(busy) })
    });
    let folder = TempDir::new().unwrap();
    assert!(fetch(&server.hub(&folder), "some/model").is_ok());
    let always = Server::new(gguf(), |_, _| Some(status(503)));
    let message = fails(&always, "some/model");
    assert!(message.contains("(status 503) (6 times)"), "{message}");
    assert_eq!(always.asked.lock().unwrap().len(), 6);
    let later = |asked: &Asked, _: usize| {
        let wait = vec![("Retry-After", "3600".to_owned())];
        asked.path.starts_with("/elsewhere").then(|| Reply { headers: wait, ..status(429) })
    };
    let message = fails(&Server::new(gguf(), later), "some/model");
    assert!(message.contains("come back in 3600 seconds (status 429)"), "{message}");
    // What is in the cache is used where the server cannot be asked.
    fs::write(root(&folder).join("refs/main"), COMMIT).unwrap();
    let fetched = fetch(&always.hub(&folder), "some/model").unwrap();
    assert!(fetched.notes[0].contains("using what is in the cache"), "{fetched:?}");
    let nobody =
        always.hub_with(&folder, |settings| settings.endpoint = "http://127.0.0.1:1".into());
    assert!(fetch(&nobody, "some/model").is_ok());
    assert!(matches!(fetch(&nobody, "some/other"), Err(Error::Connection { .. })));
}

#[test]
fn refusals_say_what_may_help_and_are_not_repeated() {
    let cases: [(u16, &str, &str); 4] = [
        (401, "", "set HF_TOKEN"),
        (403, "GatedRepo", "accept its terms"),
        (404, "RevisionNotFound", "no such revision"),
        (451, "", "status 451"),
    ];
    for (code, error, expected) in cases {
        let server = Server::new(gguf(), move |_, _| {
            Some(Reply { headers: vec![("X-Error-Code", error.into())], ..status(code) })
        });
        let message = fails(&server, "some/model");
        assert!(message.starts_with("some/model: ") && message.contains(expected), "{message}");
        assert_eq!(server.asked.lock().unwrap().len(), 1);
    }
    let missing = |asked: &Asked, _: usize| {
        let is_file = asked.method == "HEAD";
        is_file.then(|| Reply {
            headers: vec![("X-Error-Code", "EntryNotFound".into())],
            ..status(404)
        })
    };
    let message = fails(&Server::new(gguf(), missing), "some/model");
    assert!(message.contains("m-Q4_K_M.gguf: there is no such file"), "{message}");
}

#[test]
fn the_token_goes_to_the_hub() {
    let server = Server::new(gguf(), |asked, _| {
        (asked.header("authorization") != Some("Bearer hf_secret")).then(|| status(401))
    });
    let folder = TempDir::new().unwrap();
    let hub = server.hub_with(&folder, |settings| settings.token = Some("hf_secret".into()));
    assert!(fetch(&hub, "some/model").is_ok());
    assert!(fails(&server, "some/model").contains("HF_TOKEN"));
}

#[test]
fn the_token_goes_to_no_other_origin() {
    // The same host at another port, by an address of its own and by one that only names the host.
    for scheme in ["http://", "//"] {
        let content = vec![7; 1000];
        let elsewhere = {
            let body = content.clone();
            Server::new(vec![], move |_, _| Some(Reply { body: body.clone(), ..status(200) }))
        };
        let place = elsewhere.address.replace("http://", scheme) + "/blob";
        let etag = server::sha256(&content);
        let hub = Server::new(vec![("m.gguf", content.clone())], move |asked, _| {
            asked.path.ends_with("m.gguf").then(|| Reply {
                headers: vec![
                    ("Location", place.clone()),
                    ("X-Linked-Etag", format!("\"{etag}\"")),
                    ("X-Linked-Size", "1000".into()),
                ],
                ..status(302)
            })
        });
        let folder = TempDir::new().unwrap();
        let client = hub.hub_with(&folder, |settings| settings.token = Some("hf_secret".into()));
        fetch(&client, "some/model").unwrap();
        let seen = elsewhere.asked.lock().unwrap();
        assert!(!seen.is_empty());
        assert!(seen.iter().all(|asked| asked.header("authorization").is_none()), "{seen:?}");
        let asked = hub.asked.lock().unwrap();
        assert!(asked.iter().all(|asked| asked.header("authorization").is_some()));
    }
}

#[test]
fn the_token_follows_a_repository_that_was_renamed() {
    let listed = Server::new(gguf(), |asked, _| {
        if asked.header("authorization") != Some("Bearer hf_secret") {
            return Some(status(401));
        }
        let path = asked.path.clone();
        path.contains("old/name").then(|| Reply {
            headers: vec![("Location", path.replace("old/name", "some/model"))],
            ..status(307)
        })
    });
    let folder = TempDir::new().unwrap();
    let client = listed.hub_with(&folder, |settings| settings.token = Some("hf_secret".into()));
    fetch(&client, "old/name").unwrap();
}

#[test]
fn what_the_server_says_never_becomes_a_path_unchecked() {
    let list = |body: &'static str| {
        Server::new(gguf(), move |asked, _| {
            let listing = asked.path.starts_with("/api");
            listing.then(|| Reply { body: body.into(), ..status(200) })
        })
    };
    for (body, expected) in [
        ("{", "makes no sense"),
        (r#"{"sha": "../../x", "siblings": []}"#, "names no commit"),
        (
            r#"{"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{"rfilename": "../x.gguf"}]}"#,
            "holds neither",
        ),
        (
            r#"{"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{"rfilename": "/tmp/x.gguf"}]}"#,
            "holds neither",
        ),
    ] {
        let message = fails(&list(body), "some/model");
        assert!(message.contains(expected), "{message}");
    }
    for etag in ["\"../../x\"", "\"\"", "a/b"] {
        let server = Server::new(gguf(), move |asked, _| {
            let headers = vec![("X-Linked-Etag", etag.into()), ("X-Linked-Size", "5".into())];
            (asked.method == "HEAD").then(|| Reply { headers, ..status(200) })
        });
        assert!(fails(&server, "some/model").contains("etag makes no sense"));
    }
    let server = Server::new(gguf(), |asked, _| {
        let here = vec![("Location", asked.path.clone())];
        (asked.method == "HEAD").then(|| Reply { headers: here, ..status(307) })
    });
    assert!(fails(&server, "some/model").contains("circles"));
}

#[test]
fn two_downloads_of_one_file_do_not_disturb_each_other() {
    let server = Server::new(gguf(), |_, _| None);
    let folder = TempDir::new().unwrap();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| fetch(&server.hub(&folder), "some/model").unwrap()))
            .collect();
        for run in runs {
            assert!(fs::read(run.join().unwrap().path).unwrap() == content(SIZE));
        }
    });
    assert_eq!(server.parts("m-Q4_K_M.gguf?signed=1"), [0]);
}

#[test]
fn an_index_that_was_left_over_does_not_decide() {
    let stale = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let mut files: Files = vec![
        ("config.json", b"{}".to_vec()),
        ("quantize_config.json", b"{}".to_vec()),
        ("model.safetensors.index.json", stale.to_vec()),
        ("model.safetensors", content(1000)),
    ];
    let server = Server::new(files.clone(), |_, _| None);
    let folder = TempDir::new().unwrap();
    let fetched = fetch(&server.hub(&folder), "some/model").unwrap();
    for (name, content) in &files {
        assert_eq!(&fs::read(fetched.path.join(name)).unwrap(), content, "{name}");
    }
    // A repository that lacks one of the files that its index names.
    files[3].0 = "model-00001-of-00002.safetensors";
    let server = Server::new(files, |_, _| None);
    let folder = TempDir::new().unwrap();
    let message = fetch(&server.hub(&folder), "some/model").unwrap_err().to_string();
    let expected =
        "model-00002-of-00002.safetensors is missing, but model.safetensors.index.json names it";
    assert!(message.contains(expected), "{message}");
}

#[cfg(unix)]
#[test]
fn what_others_put_into_the_cache_is_neither_followed_nor_in_the_way() {
    use std::os::unix::fs::symlink;
    let server = Server::new(gguf(), |_, _| None);
    let name = sha256(&content(SIZE));
    let folder = TempDir::new().unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let (blobs, locks) =
        (root(&folder).join("blobs"), folder.path().join("hub/.locks/models--some--model"));
    let refs = root(&folder).join("refs");
    let pipe = |path: &Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    };
    let places: [&dyn Fn(); 8] = [
        &|| symlink(&precious, blobs.join(format!("{name}.incomplete"))).unwrap(),
        &|| fs::hard_link(&precious, blobs.join(format!("{name}.incomplete"))).unwrap(),
        &|| pipe(&blobs.join(format!("{name}.incomplete"))),
        &|| fs::create_dir(blobs.join(format!("{name}.incomplete"))).unwrap(),
        &|| symlink(&precious, blobs.join(&name)).unwrap(),
        // A copy that broke off under the final name.
        &|| fs::write(blobs.join(&name), &content(SIZE)[..1000]).unwrap(),
        &|| pipe(&locks.join(format!("{name}.lock"))),
        &|| symlink(&precious, refs.join("main.incomplete")).unwrap(),
    ];
    for put in places {
        for folder in [&blobs, &locks, &refs] {
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all(folder).unwrap();
        }
        let _ = fs::remove_dir_all(root(&folder).join("snapshots"));
        put();
        let fetched = fetch(&server.hub(&folder), "some/model").unwrap();
        assert_eq!(fs::read(&fetched.path).unwrap(), content(SIZE));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    }
    // A link to a folder is none of the snapshot's, neither in it nor as it.
    let hub = server.hub(&folder);
    let snapshots = root(&folder).join("snapshots");
    let count = |hub: &Hub| hub.find(&model("some/model")).unwrap().snapshots[0].files.len();
    assert_eq!(count(&hub), 1);
    symlink("/", snapshots.join(COMMIT).join("inner")).unwrap();
    assert_eq!(count(&hub), 1);
    fs::remove_dir_all(snapshots.join(COMMIT)).unwrap();
    symlink("/", snapshots.join(COMMIT)).unwrap();
    assert_eq!(count(&hub), 0);
    // A reference that is a pipe is none.
    fs::remove_file(refs.join("main")).unwrap();
    pipe(&refs.join("main"));
    assert!(
        server
            .hub_with(&folder, |settings| settings.offline = true)
            .fetch(&model("some/model"), &Revision::default(), &|_| true)
            .is_err()
    );
}
