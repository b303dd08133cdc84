// The shop's words in both languages. Vietnamese is the default; a browser that asks for English first gets English.
const WORDS = {
  vi: {
    title: "Hiên · cà phê, trà và gốm Việt", skip: "Tới nội dung chính", home: "Trang chủ", cart: "Giỏ hàng", language: "Ngôn ngữ",
    all: "Tất cả", coffee: "Cà phê", tea: "Trà", ceramics: "Gốm", pantry: "Gian bếp",
    eyebrow: "Mùa vụ tháng 11", hero: "Ngồi xuống hiên nhà, pha một ấm thật ngon.",
    lead: "Cà phê Cầu Đất, trà cổ thụ Hà Giang, gốm Bát Tràng: mua thẳng từ người làm ra, gửi tới hiên nhà bạn trong hai ngày.",
    shopNow: "Xem hàng mới", shelf: "Trên kệ tuần này", items: (n) => `${n} món`,
    add: "Thêm vào giỏ", added: "Đã thêm vào giỏ", origin: "Vùng", size: "Quy cách", quantity: "Số lượng", more: "Dùng cùng sẽ hợp", back: "Về cửa hàng",
    promise1: "Mua thẳng từ nơi làm", promise1text: "Mười một gia đình và hợp tác xã, trả giá công bố trên mỗi gói hàng.",
    promise2: "Giao trong hai ngày", promise2text: "Miễn phí từ 500.000 ₫. Hàng gốm bọc ba lớp, vỡ đổi mới.",
    promise3: "Đổi trả ba mươi ngày", promise3text: "Không vừa ý, gửi lại. Chúng tôi chịu phí gửi.",
    story: "Từ người làm tới người uống", storyText: "Hiên là khoảng nằm giữa nhà và sân: nơi mời khách ngồi lại. Chúng tôi đi tìm những người vẫn làm nghề chậm và kỹ, rồi mời bạn nếm thử.",
    cartEmpty: "Giỏ của bạn đang trống.", cartEmptyText: "Chọn một gói trà, hẹn một buổi chiều.", remove: "Bỏ", less: "Bớt một", plus: "Thêm một",
    subtotal: "Tạm tính", shipping: "Phí giao", free: "Miễn phí", total: "Tổng cộng", checkout: "Thanh toán", keepShopping: "Mua tiếp",
    contact: "Liên hệ", payment: "Thanh toán", step: (n) => `Bước ${n} / 2`, name: "Họ và tên", email: "E-mail", phone: "Điện thoại", address: "Địa chỉ nhận hàng",
    toPayment: "Tiếp tục tới thanh toán", cod: "Trả tiền khi nhận hàng", codText: "Đưa tiền cho người giao.", bank: "Chuyển khoản (VietQR)", bankText: "Mã QR gửi qua e-mail.", card: "Thẻ", cardText: "Cửa hàng mẫu: không hỏi số thẻ.",
    choosePay: "Chọn cách trả này", pay: "Đặt hàng", order: "Đơn hàng", demoNote: "Đây là cửa hàng mẫu: không có gì được bán hay gửi đi. Hãy điền dữ liệu bịa.",
    thanks: "Cảm ơn bạn đã đặt hàng", thanksText: (id) => `Mã đơn ${id}. Giỏ đã mua nên không còn nhắc bỏ giỏ nữa.`, invalid: "Xin điền ô này.", invalidEmail: "Xin nhập một địa chỉ e-mail.",
    notFound: "Không có trang này.",
    popupTitle: "Một chút hương cho hộp thư", popupText: "Mỗi tháng một thư: mùa vụ mới, cách pha và mã giảm 10 % cho đơn đầu.", popupSend: "Nhận thư", popupNo: "Để sau", popupThanks: "Đã ghi nhận. Hẹn gặp trong hộp thư.", close: "Đóng",
    live: "Trực tiếp", liveText: "Mỗi cú nhấp đi qua Kafka, được xử lý rồi hiện ở đây.", connecting: "Đang nối", connected: "Đang nhận", waiting: "Chờ luồng xử lý", offline: "Mất kết nối, đang thử lại", blocked: "Đoạn mã theo dõi bị chặn",
    yourEvents: "Sự kiện của bạn", noEvents: "Chưa có gì. Hãy bấm xem một món.", counters: "Cả cửa hàng, một giờ qua", noCounters: "Chưa có số liệu.",
    cartSignal: "Tín hiệu giỏ hàng", noCart: "Chưa có giỏ", noCartText: "Thêm một món rồi để yên: hệ thống sẽ báo giỏ bị bỏ.",
    countdown: (s) => `Còn ${s}`, countdownText: { cart: "Không thao tác nữa thì giỏ bị xem là bỏ.", checkout: "Đang ở bước thanh toán. Dừng lại thì bị xem là bỏ.", payment: "Đã chọn cách trả. Dừng lại thì bị xem là bỏ." },
    due: "Đã tới hạn", dueText: "Chờ trigger từ Kafka…", bought: "Đã mua", boughtText: "Mua kịp: không có trigger nào.", recoveredText: "Giỏ đã bị bỏ, rồi khách quay lại mua.", repeated: "Khách quay lại", repeatedText: (h) => `Giỏ này đã được báo; trong ${h} sẽ không báo lại.`,
    retracted: "Trigger đã rút lại", retractedText: "Một sự kiện tới muộn cho thấy giỏ không bị bỏ.",
    abandoned: "Giỏ bị bỏ", abandonedText: "Trigger đã phát trên Kafka:", churn: "Khách sắp rời đi", value: "Giá trị", stage: "Dừng ở", stages: { cart: "giỏ hàng", checkout: "thanh toán", payment: "trả tiền" }, json: "Xem dữ liệu", newVisitor: "Thành khách mới", visitor: "Khách", open: "Mở bảng trực tiếp", fold: "Thu gọn",
    hours: (h) => `${h} giờ`, minutes: (m) => `${m} phút`, latency: "Từ lúc máy chủ nhận tới lúc hiện ở đây",
    footer: "Cửa hàng mẫu của một bộ theo dõi sự kiện mã nguồn mở.",
  },
  en: {
    title: "Hiên · Vietnamese coffee, tea and ceramics", skip: "Skip to content", home: "Home", cart: "Cart", language: "Language",
    all: "All", coffee: "Coffee", tea: "Tea", ceramics: "Ceramics", pantry: "Pantry",
    eyebrow: "November harvest", hero: "Take a seat on the porch and brew something good.",
    lead: "Coffee from Cầu Đất, ancient-tree tea from Hà Giang, ceramics from Bát Tràng: bought straight from the makers, at your door in two days.",
    shopNow: "See what is new", shelf: "On the shelf this week", items: (n) => `${n} ${n === 1 ? "item" : "items"}`,
    add: "Add to cart", added: "Added to cart", origin: "Origin", size: "Size", quantity: "Quantity", more: "Goes well with", back: "Back to the shop",
    promise1: "Straight from the makers", promise1text: "Eleven families and co-operatives; what they are paid is printed on the pack.",
    promise2: "Delivered in two days", promise2text: "Free from ₫500,000. Ceramics are wrapped threefold, replaced if broken.",
    promise3: "Thirty days to return", promise3text: "Not what you hoped for? Send it back at our cost.",
    story: "From those who make to those who drink", storyText: "Hiên is the porch: the place between house and yard where guests are asked to stay. We look for people who still work slowly and well, and invite you to taste.",
    cartEmpty: "Your cart is empty.", cartEmptyText: "Choose a tea and plan an afternoon around it.", remove: "Remove", less: "One less", plus: "One more",
    subtotal: "Subtotal", shipping: "Delivery", free: "Free", total: "Total", checkout: "Check out", keepShopping: "Keep shopping",
    contact: "Contact", payment: "Payment", step: (n) => `Step ${n} of 2`, name: "Full name", email: "E-mail", phone: "Phone", address: "Delivery address",
    toPayment: "Continue to payment", cod: "Cash on delivery", codText: "Pay the courier.", bank: "Bank transfer (VietQR)", bankText: "We e-mail the QR code.", card: "Card", cardText: "Demo shop: no card number is asked.",
    choosePay: "Use this payment", pay: "Place the order", order: "Order", demoNote: "This is a demo shop: nothing is sold or sent. Please fill in made-up data.",
    thanks: "Thank you for your order", thanksText: (id) => `Order ${id}. The cart was bought, so nobody will be told it was abandoned.`, invalid: "Please fill this in.", invalidEmail: "Please enter an e-mail address.",
    notFound: "There is no such page.",
    popupTitle: "A little aroma for your inbox", popupText: "One letter a month: the new harvest, how to brew it, and 10 % off your first order.", popupSend: "Send it to me", popupNo: "Maybe later", popupThanks: "Done. See you in your inbox.", close: "Close",
    live: "Live", liveText: "Every click goes through Kafka, is processed, and shows up here.", connecting: "Connecting", connected: "Receiving", waiting: "Waiting for the stream", offline: "Connection lost, trying again", blocked: "The tracking snippet is blocked",
    yourEvents: "Your events", noEvents: "Nothing yet. Have a look at a product.", counters: "The whole shop, last hour", noCounters: "No figures yet.",
    cartSignal: "Cart signal", noCart: "No cart yet", noCartText: "Add something and leave it alone: the abandonment will be noticed.",
    countdown: (s) => `${s} left`, countdownText: { cart: "Without another click this cart counts as abandoned.", checkout: "In checkout. Stop here and it counts as abandoned.", payment: "Payment was chosen. Stop here and it counts as abandoned." },
    due: "Due now", dueText: "Waiting for the trigger from Kafka…", bought: "Bought", boughtText: "In time: no trigger was sent.", recoveredText: "The cart had been abandoned; then the customer came back.", repeated: "Came back", repeatedText: (h) => `This cart was reported; it will not be again within ${h}.`,
    retracted: "Trigger taken back", retractedText: "A late event showed that the cart was not abandoned.",
    abandoned: "Cart abandoned", abandonedText: "A trigger was published on Kafka:", churn: "Customer at risk", value: "Value", stage: "Left at", stages: { cart: "cart", checkout: "checkout", payment: "payment" }, json: "Show the data", newVisitor: "Become a new visitor", visitor: "Visitor", open: "Open the live panel", fold: "Fold",
    hours: (h) => `${h} h`, minutes: (m) => `${m} min`, latency: "From the endpoint's receipt to this page",
    footer: "The demo shop of an open-source event tracker.",
  },
};

const KEY = "shop.language";

function firstLanguage() {
  try {
    const chosen = localStorage.getItem(KEY);
    if (chosen in WORDS) return chosen;
  } catch {}
  return (navigator.languages?.[0] ?? "vi").startsWith("en") ? "en" : "vi";
}

export let language = firstLanguage();

export function speak(next) {
  language = next;
  try {
    localStorage.setItem(KEY, next);
  } catch {}
}

export const t = (key, ...args) => {
  const word = WORDS[language][key];
  return typeof word === "function" ? word(...args) : word;
};

export const money = (amount, currency = "VND") => {
  try {
    return new Intl.NumberFormat(language === "vi" ? "vi-VN" : "en-GB", { style: "currency", currency, maximumFractionDigits: currency === "VND" ? 0 : 2 }).format(amount);
  } catch {
    return `${amount} ${currency}`;
  }
};
