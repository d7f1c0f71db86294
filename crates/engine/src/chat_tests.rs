use super::*;

#[test]
fn deep() {
    let (l, r) = ("[".repeat(50), "]".repeat(50));
    let nest = format!(
        "{{% set ns = namespace(x=1,y=1) %}}{{% for i in range(99000) %}}{{% set ns.x = {l}ns.x{r} %}}{{% if i == 8000 %}}{{% break %}}{{% endif %}}{{% endfor %}}"
    );
    for end in [
        "ok",
        "{{ {ns.x: 1}[ns.x] }}",
        "{{ ns.x }}",
        "{{ ns.x == ns.x }}",
        "{{ {ns.x: 1} }}",
        "{{ [ns.x, ns.x]|sort }}",
        "{{ ns.x|string|length }}",
        "{{ [ns.x,ns.x]|unique|list|length }}",
        "{{ ns.q.q }}",
    ] {
        let t = ChatTemplate::new(&format!("{nest}{end}"), &BTreeMap::new(), &[]).unwrap();
        let r = t.render(&[], &RenderOptions::default());
        println!("{end} {:?}", r.map(|s| s.chars().take(20).collect::<String>()));
    }
}
