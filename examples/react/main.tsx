import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { tracker } from "./tracker";

function Product({ id, name, price }: { id: string; name: string; price: number }) {
  const add = () => tracker.ecommerce.productAdded({ product_id: id, name, price, currency: "VND", quantity: 1 });
  return (
    <li>
      {name} <button id={`add-${id}`} onClick={add}>Mua</button>
    </li>
  );
}

function App() {
  const [page, setPage] = useState("/");
  // Any router does: the script hears pushState, replaceState and back.
  const go = (path: string) => {
    history.pushState({}, "", path);
    setPage(path);
  };
  return (
    <main>
      <h1>{page}</h1>
      <button id="go" onClick={() => go("/ca-phe")}>Cà phê</button>
      <button id="sign-in" onClick={() => tracker.identify("u-17", { email: "lan@example.vn" })}>Đăng nhập</button>
      <ul>
        <Product id="p1" name="Robusta 500 g" price={185000} />
      </ul>
    </main>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
