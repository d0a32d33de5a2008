use kube::api::DynamicObject;
use serde_json::json;

use super::*;

fn watch(kind: &str, namespace: Option<&str>) -> Watch {
    Watch { kind: kind.to_owned(), namespace: namespace.map(str::to_owned) }
}

fn service(namespace: &str) -> ServiceKey {
    ServiceKey { namespace: namespace.to_owned(), kind: "SignupShard".to_owned(), name: "demo".to_owned() }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: "ConfigMap".to_owned(), name: name.to_owned() }
}

fn object(name: &str, version: u32, data: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name, "uid": "u", "resourceVersion": version.to_string(), "generation": version,
            "labels": { "app.kubernetes.io/instance": "demo" },
            "annotations": { "shardlane.dev/x": "1", "other": "2" },
            "managedFields": [{ "manager": version.to_string() }],
        },
        "data": { "key": data },
        "status": { "n": version },
    }))
    .unwrap()
}

#[test]
fn what_a_new_list_lacks_is_gone() {
    let (watched, here) = (Watched::default(), watch("ConfigMap", None));
    watched.expect(&here);
    watched.begins(&here);
    for name in ["a", "b"] {
        watched.seen(&here, service("shop"), key(name), Seen::of(object(name, 1, "x")));
    }
    watched.ends(&here);
    let mut told = watched.listen("SignupShard");
    watched.begins(&here);
    watched.seen(&here, service("shop"), key("a"), Seen::of(object("a", 1, "x")));
    assert!(watched.objects(&service("shop")).get("ConfigMap", "b").is_some(), "until the list is complete");
    watched.ends(&here);
    assert!(watched.objects(&service("shop")).get("ConfigMap", "b").is_none());
    assert_eq!(told.try_recv().unwrap(), service("shop"));
}

#[test]
fn a_list_of_one_namespace_or_type_says_nothing_of_others() {
    let watched = Watched::default();
    let (shop, office) = (watch("ConfigMap", Some("shop")), watch("ConfigMap", Some("office")));
    watched.seen(&office, service("office"), key("a"), Seen::of(object("a", 1, "x")));
    for other in [shop, watch("Pod", None)] {
        watched.begins(&other);
        watched.ends(&other);
    }
    assert!(watched.objects(&service("office")).get("ConfigMap", "a").is_some());
}

#[test]
fn a_fingerprint_changes_with_what_somebody_wrote_and_with_nothing_else() {
    let print = |version, data| Fingerprint::of(&object("a", version, data));
    assert_eq!(print(1, "x"), print(2, "x"));
    assert_ne!(print(1, "x"), print(1, "y"));
    let mut labelled = object("a", 1, "x");
    labelled.metadata.labels.get_or_insert_default().insert("more".to_owned(), "1".to_owned());
    assert_ne!(print(1, "x"), Fingerprint::of(&labelled));
}

#[test]
fn what_was_applied_is_forgotten_with_the_object() {
    let (watched, here) = (Watched::default(), watch("ConfigMap", None));
    let print = Fingerprint::of(&object("a", 1, "x"));
    watched.note(&service("shop"), key("a"), Applied { wanted: print, became: print });
    watched.seen(&here, service("shop"), key("a"), Seen::of(object("a", 1, "x")));
    assert!(watched.applied(&service("shop"), &key("a")).is_some());
    watched.gone(&service("shop"), &key("a"));
    assert!(watched.applied(&service("shop"), &key("a")).is_none());
}

#[test]
fn only_an_identity_keeps_its_data() {
    let kept = |name: &str| {
        let map: k8s_openapi::api::core::v1::ConfigMap = Seen::of(object(name, 1, "x")).typed().unwrap();
        (map.data.is_some(), map.metadata.annotations.unwrap().len())
    };
    assert_eq!(kept("demo-identity"), (true, 1));
    assert_eq!(kept("demo-config"), (false, 1));
}

#[tokio::test]
async fn turns_begin_when_every_watch_has_told_and_one_of_an_unknown_type_has() {
    let watched = Watched::default();
    let (maps, topics) = (watch("ConfigMap", None), watch("KafkaTopic", None));
    watched.expect(&maps);
    watched.expect(&topics);
    watched.is_unknown(&topics);
    let complete = watched.complete();
    tokio::pin!(complete);
    assert!(futures::poll!(&mut complete).is_pending());
    watched.begins(&maps);
    watched.ends(&maps);
    complete.await;
    assert!(!watched.knows("KafkaTopic", "shop") && watched.knows("ConfigMap", "shop"));
    // Installed later.
    watched.begins(&topics);
    watched.ends(&topics);
    assert!(watched.knows("KafkaTopic", "shop"));
}
