// What the shop sells. Prices in VND.
export const CURRENCY = "VND";
export const SHIPPING = 30000;
export const FREE_SHIPPING_FROM = 500000;

export const PRODUCTS = [
  {
    id: "ca-phe-cau-dat", price: 185000, category: "coffee", size: "250 g",
    name: { vi: "Arabica Cầu Đất", en: "Cầu Đất Arabica" },
    from: { vi: "Đà Lạt, 1.550 m", en: "Đà Lạt, 1,550 m" },
    text: {
      vi: "Hái chín bằng tay, sơ chế ướt, rang vừa trong tuần. Chua nhẹ như mận chín, hậu ngọt mật mía, uống phin hay pour-over đều thơm.",
      en: "Hand-picked ripe, washed, roasted medium this week. The soft acidity of ripe plum and a long cane-sugar finish, in a phin or as pour-over.",
    },
  },
  {
    id: "tra-shan-tuyet", price: 240000, category: "tea", size: "100 g",
    name: { vi: "Trà Shan Tuyết cổ thụ", en: "Ancient-tree Shan Tuyết tea" },
    from: { vi: "Hà Giang, 1.400 m", en: "Hà Giang, 1,400 m" },
    text: {
      vi: "Búp phủ lông trắng như tuyết từ những cây trà hàng trăm tuổi. Nước vàng sánh, chát dịu đầu lưỡi rồi ngọt rất lâu.",
      en: "Snow-white downy buds from trees several centuries old. A golden cup, gently astringent at first, then sweet for a long while.",
    },
  },
  {
    id: "am-tra-bat-trang", price: 520000, category: "ceramics", size: "350 ml",
    name: { vi: "Ấm trà men hỏa biến", en: "Flambé-glaze teapot" },
    from: { vi: "Bát Tràng, Hà Nội", en: "Bát Tràng, Hà Nội" },
    text: {
      vi: "Vuốt tay trên bàn xoay, nung 1.280 °C. Men đổi màu theo lửa nên không có hai chiếc giống nhau; vòi rót gọn, không nhỏ giọt.",
      en: "Thrown by hand and fired at 1,280 °C. The glaze turns with the flame, so no two are alike; the spout pours clean, without a drip.",
    },
  },
  {
    id: "phin-nhom", price: 95000, category: "coffee", size: "180 ml",
    name: { vi: "Phin nhôm nắp gài", en: "Aluminium phin filter" },
    from: { vi: "Đà Nẵng", en: "Đà Nẵng" },
    text: {
      vi: "Nhôm dày 1,2 mm giữ nhiệt, lỗ lọc đục đều nên cà phê nhỏ giọt chậm và đậm. Kèm muỗng đong và giấy hướng dẫn pha.",
      en: "Thick 1.2 mm aluminium keeps the heat, evenly punched holes let it drip slow and strong. With a scoop and a brewing card.",
    },
  },
  {
    id: "tra-sen-tay-ho", price: 690000, category: "tea", size: "100 g",
    name: { vi: "Trà sen Tây Hồ", en: "West Lake lotus tea" },
    from: { vi: "Quảng An, Hà Nội", en: "Quảng An, Hà Nội" },
    text: {
      vi: "Bảy lần ướp gạo sen hái lúc mặt trời chưa lên: một nghìn bông cho mỗi cân trà. Hương mảnh, sạch, đọng trong chén đã cạn.",
      en: "Scented seven times with lotus stamens gathered before sunrise: a thousand flowers to the kilo. A fine, clean scent that stays in the empty cup.",
    },
  },
  {
    id: "ca-phe-buon-ma-thuot", price: 165000, category: "coffee", size: "500 g",
    name: { vi: "Robusta Buôn Ma Thuột", en: "Buôn Ma Thuột Robusta" },
    from: { vi: "Đắk Lắk, 530 m", en: "Đắk Lắk, 530 m" },
    text: {
      vi: "Sơ chế mật ong, rang đậm vừa tới. Ca cao đắng, hạt dẻ, thân dày: ly cà phê sữa đá đúng điệu.",
      en: "Honey-processed, roasted just dark enough. Bitter cocoa, chestnut and a heavy body: made for iced coffee with condensed milk.",
    },
  },
  {
    id: "bo-chen-chu-dau", price: 360000, category: "ceramics", size: "4 × 90 ml",
    name: { vi: "Bộ bốn chén hoa lam", en: "Four blue-and-white cups" },
    from: { vi: "Chu Đậu, Hải Dương", en: "Chu Đậu, Hải Dương" },
    text: {
      vi: "Dáng chén theo hiện vật tàu cổ Cù Lao Chàm, hoa lam vẽ tay dưới men trắng trong. Mỏng, nhẹ và ấm tay.",
      en: "Shaped after finds from the Cù Lao Chàm wreck, painted by hand in cobalt under a clear glaze. Thin, light and warm to hold.",
    },
  },
  {
    id: "mat-ong-bac-ha", price: 320000, category: "pantry", size: "500 ml",
    name: { vi: "Mật ong hoa bạc hà", en: "Wild mint honey" },
    from: { vi: "Mèo Vạc, Hà Giang", en: "Mèo Vạc, Hà Giang" },
    text: {
      vi: "Ong nội đi hoa bạc hà dại trên cao nguyên đá, chỉ có từ tháng mười đến tháng chạp. Vàng chanh, thơm mát, ngọt thanh.",
      en: "Native bees on wild mint of the karst plateau, from October to December only. Lemon-gold, cool on the nose, lightly sweet.",
    },
  },
];

export const productOf = (id) => PRODUCTS.find((product) => product.id === id);
