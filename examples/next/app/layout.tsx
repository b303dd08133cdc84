// The tags that `tracker snippet --site SITE` prints, in the head of every page. They stand in the server's HTML, so calls are
// queued before React has started; no component of Next's is needed for them.
import type { ReactNode } from "react";
import { stub } from "./stub";

const endpoint = process.env.NEXT_PUBLIC_TRACKER ?? "";
const writeKey = process.env.NEXT_PUBLIC_WRITE_KEY ?? "";

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="vi">
      <head>
        <script
          id="trk"
          async
          src={`${endpoint}/t.full.js`}
          data-write-key={writeKey}
          data-to={`${endpoint}/v1/batch?writeKey=${writeKey}`}
          data-spa=""
        />
        <script dangerouslySetInnerHTML={{ __html: stub }} />
      </head>
      <body>{children}</body>
    </html>
  );
}
