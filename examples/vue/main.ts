import { createApp, defineComponent, h, inject, ref } from "vue";
import type { Tracker } from "event-streaming-tracker-snippet";
import { tracker } from "./tracker";

const Product = defineComponent({
  props: { id: { type: String, required: true }, name: { type: String, required: true }, price: { type: Number, required: true } },
  setup(props) {
    const tracker = inject<Tracker>("tracker")!;
    const add = () => tracker.ecommerce.productAdded({ product_id: props.id, name: props.name, price: props.price, currency: "VND", quantity: 1 });
    return () => h("li", [props.name, " ", h("button", { id: `add-${props.id}`, onClick: add }, "Mua")]);
  },
});

const App = defineComponent({
  setup() {
    const page = ref("/");
    // Any router does: the script hears pushState, replaceState and back.
    const go = (path: string) => {
      history.pushState({}, "", path);
      page.value = path;
    };
    const signIn = () => tracker.identify("u-17", { email: "lan@example.vn" });
    return () =>
      h("main", [
        h("h1", page.value),
        h("button", { id: "go", onClick: () => go("/ca-phe") }, "Cà phê"),
        h("button", { id: "sign-in", onClick: signIn }, "Đăng nhập"),
        h("ul", [h(Product, { id: "p1", name: "Robusta 500 g", price: 185000 })]),
      ]);
  },
});

createApp(App).provide("tracker", tracker).mount("#root");
