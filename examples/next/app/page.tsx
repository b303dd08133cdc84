"use client";

import { tracker } from "./tracker";

export default function Page() {
  return (
    <main>
      <button id="go" onClick={() => history.pushState({}, "", "/ca-phe")}>Cà phê</button>
      <button id="sign-in" onClick={() => tracker().identify("u-17", { email: "lan@example.vn" })}>Đăng nhập</button>
      <button
        id="add-p1"
        onClick={() =>
          tracker().track("Product Added", { product_id: "p1", name: "Robusta 500 g", price: 185000, currency: "VND", quantity: 1 })
        }
      >
        Mua
      </button>
    </main>
  );
}
